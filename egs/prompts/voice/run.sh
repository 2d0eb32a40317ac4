#!/usr/bin/env bash
# The voice that comes with the package: trained anew, then tried on the test prompts of each language. AUDIOTOK_SPEECH=FOLDER ./run.sh
# languages="en es" ./run.sh --stage 4 tries the shipped one; synthesize.checkpoint=exp/voice/train/step_00004600 the one trained here.
# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../../tools/stages.sh"
recipe=voice
languages=${languages-en es fr it ru}

stage 0 prepare  # corpora             -> manifests
stage 1 tokenize # manifests           -> token store
stage 2 align    # manifests           -> phonemes and their durations, by what is heard where there is no text
stage 3 train    # tokens, alignments  -> checkpoints
for l in $languages; do stage 4 synthesize "exp_dir=\${exp_root}/voice/$l" "select.languages=[$l]"; done # test texts -> wavs
for l in $languages; do stage 5 evaluate "exp_dir=\${exp_root}/voice/$l"; done                               # wavs       -> scores
for l in $languages; do stage 6 report "exp_dir=\${exp_root}/voice/$l"; done                                 # scores     -> report.html
