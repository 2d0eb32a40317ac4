#!/usr/bin/env bash
# Enhancers trained and tested on VoiceBank-DEMAND's own pairs. ./run.sh data.root=FOLDER
# enhancers=mask ./run.sh ... adds one; what is there is not made again.
# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../../tools/stages.sh"
recipe=voicebank/enhance
enhancers=${enhancers-transducer decoder_only conformer latents mask}
own="exp_dir=\${exp_root}/voicebank/enhance" # each is trained in a folder of its own below, all are scored together

stage 0 prepare                                                                                    # corpus -> manifests
stage 1 mix                                                                                        # its test pairs -> test set
for choice in $enhancers; do stage 2 train_enhancer "enhancer=$choice" "$own/$choice"; done        # its training pairs -> checkpoints
for choice in $enhancers; do stage 3 enhance "enhancer=$choice" "$own/$choice" "enhance.out=\${exp_root}/voicebank/enhance/audio/$choice"; done
stage 4 evaluate                                                                                   # wavs -> scores
stage 5 report                                                                                     # scores -> page and table
