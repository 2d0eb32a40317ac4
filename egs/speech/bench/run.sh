#!/usr/bin/env bash
# The leaderboard of the tokenizers at hand on suites/mini. AUDIOTOK_SPEECH=FOLDER AUDIOTOK_LYRA=FOLDER ./run.sh
# What is there is not measured again: codebooks= tokenizers=mimi ./run.sh adds a row.
# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../../tools/stages.sh"
recipe=suites/mini
tokenizers=${tokenizers-codec codec_single dmel dmel_vocoder kmeans_mel ${AUDIOTOK_LYRA:+lyra lyra_6k lyra_9k} encodec_untrained}
codebooks=${codebooks-1 3} # of the codec, each a row beside that of all 6

for choice in $tokenizers; do stage 0 bench "tokenizer=$choice"; done                                                     # corpora, tokenizer -> rows
for k in $codebooks; do stage 1 bench tokenizer=codec "tokenizer.num_codebooks=$k" "bench.label=codec-$k"; done
if [[ $codebooks ]]; then stage 1 bench tokenizer=kmeans_whisper tokenizer.fitted=units_whisper; fi
stage 2 report                                                                                                            # rows -> page
