#!/usr/bin/env bash
# Text to speech on the English prompts. ./run.sh --stage 4 --stop-stage 5 train.steps=1000
# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../../tools/stages.sh"
recipe=prompts/tts

stage 0 prepare      # corpus                 -> manifests
stage 1 tokenize     # manifests              -> token store
stage 2 align        # manifests              -> phonemes and their durations
stage 3 train        # tokens, alignments     -> checkpoints
stage 4 synthesize   # checkpoint, test texts -> wavs
stage 5 decode       # test tokens            -> wavs, what the tokenizer alone loses
stage 6 evaluate     # wavs                   -> scores
stage 7 report       # scores, logs, wavs     -> report.html
