#!/usr/bin/env bash
# What shorter codes cost and lose, for each tokenizer and transform; Lyra too where AUDIOTOK_LYRA is its folder.
# What is there is not done again: tokenizers=codec transforms=merge2,bpe4096 ./run.sh adds to the figure.
# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../../tools/stages.sh"
recipe=prompts/reduction
tokenizers=${tokenizers-codec codec_single ${AUDIOTOK_LYRA:+lyra}}
residual=${residual-codec ${AUDIOTOK_LYRA:+lyra}} # those of several codebooks
lossless=parallel,flatten,stack2,run_length,implicit_run_length,bpe1024,bpe4096,bpe4096_aligned,repair,pathpiece,lzw,meta_tokens
pooled=decimate2,decimate3,decimate4,average2,average3,average4,max2,soft2,ada2,blur2,merge2,merge2_all,compressor2,compressor4,tail_drop
chosen=threshold,agglomerative2,density_peaks,by_density2,kmeans2,kmedoids2,change2,diversity2,redundancy2
transforms=${transforms-$lossless,$pooled,$chosen,[merge2,bpe1024],[average2,bpe1024]}

stage 0 prepare                                                                                       # corpus    -> manifests
for choice in $tokenizers; do stage 1 tokenize "tokenizer=$choice"; done                              # manifests -> token stores
for choice in $tokenizers; do stage 2 account "tokenizer=$choice" "transform=$transforms"; done       # tokens    -> accounts
for choice in $residual; do stage 2 account "tokenizer=$choice" transform=codebooks2,codebooks3,codebooks4; done
stage 3 report                                                                                        # accounts  -> account.html
