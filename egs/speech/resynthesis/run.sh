#!/usr/bin/env bash
# Codecs on LibriSpeech test-other, ours at each rate and others beside them. AUDIOTOK_SPEECH=FOLDER ./run.sh
# What is there is not made again: codebooks= tokenizers=mimi ./run.sh adds one.
# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../../tools/stages.sh"
recipe=speech/resynthesis
codebooks=${codebooks-1 2 3 4 5 6} # of the codec: each is a system of its own
tokenizers=${tokenizers-codec_single dmel dmel_80hz dmel_vocoder ${AUDIOTOK_LYRA:+lyra lyra_6k} opus_6k codec2_3200 codec2_1200}

stage 0 prepare                                                                                       # corpus -> manifests
for k in $codebooks; do stage 1 tokenize tokenizer=codec "tokenizer.num_codebooks=$k"; done           # manifests -> token stores
for choice in $tokenizers; do stage 1 tokenize "tokenizer=$choice"; done
for k in $codebooks; do stage 2 decode tokenizer=codec "tokenizer.num_codebooks=$k" "decode.system=codec-$k"; done # tokens -> wavs
for choice in $tokenizers; do stage 2 decode "tokenizer=$choice"; done
stage 3 evaluate                                                                                      # wavs -> scores
stage 4 report                                                                                        # scores -> report.html
