#!/usr/bin/env bash
# What more codebooks are worth: enhancers of the first ones alone, on the mixes of run.sh and scored beside its systems (of all codebooks).
# enhancers=transducer codebooks=2 ./bitrate.sh adds one; what is there is not made again.
# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../../tools/stages.sh"
recipe=speech/enhance
enhancers=${enhancers-transducer decoder_only conformer}
codebooks=${codebooks-1 2 3 4}
folder="\${exp_root}/speech/enhance"
few() { for choice in $enhancers; do for k in $codebooks; do "$@"; done; done; }
train() { stage 2 train_enhancer "enhancer=$choice" "tokenizer.num_codebooks=$k" "exp_dir=$folder/$choice-$k"; }
enhance() { stage 3 enhance "enhancer=$choice" "tokenizer.num_codebooks=$k" "exp_dir=$folder/$choice-$k" "enhance.out=$folder/audio/$choice-$k"; }

stage 0 prepare                                                                                      # corpus -> manifests
stage 1 mix                                                                                          # manifests -> fixed mixes
for k in $codebooks; do stage 1 mix "tokenizer.num_codebooks=$k" "enhance.ceiling=ceiling-$k" "enhance.floor=floor-$k"; done # through fewer
few train                                                                                            # crops in noise -> checkpoints
few enhance                                                                                          # mixes -> wavs
stage 4 evaluate                                                                                     # wavs -> scores
stage 5 compare                                                                                      # scores -> figure over bits
