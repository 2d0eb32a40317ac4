#!/usr/bin/env bash
# What each tokenizer loses on the English prompts; Lyra too where AUDIOTOK_LYRA is its folder. tokenizers="dmel lyra" ./run.sh
# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../../tools/stages.sh"
recipe=prompts/resynthesis
tokenizers=${tokenizers:-dmel dmel_80hz ${AUDIOTOK_LYRA:+lyra}}

stage 0 prepare                                                              # corpus    -> manifests
for choice in $tokenizers; do stage 1 tokenize "tokenizer=$choice"; done     # manifests -> token stores
for choice in $tokenizers; do stage 2 decode "tokenizer=$choice"; done       # tokens    -> wavs
stage 3 evaluate                                                             # wavs      -> scores
stage 4 report                                                               # scores    -> report.html
