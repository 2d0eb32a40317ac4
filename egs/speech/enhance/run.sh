#!/usr/bin/env bash
# Enhancers on fixed mixes of unheard speakers in unheard noise at -5 to 15 dB. AUDIOTOK_SPEECH=FOLDER ./run.sh
# enhancers=mask ./run.sh adds one; what is there is not made again.
# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../../tools/stages.sh"
recipe=speech/enhance
enhancers=${enhancers-transducer decoder_only conformer latents mask}
own="exp_dir=\${exp_root}/speech/enhance" # each is trained in a folder of its own below, all are scored together

stage 0 prepare                                                                                    # corpus -> manifests
stage 1 mix                                                                                        # manifests -> fixed mixes
for choice in $enhancers; do stage 2 train_enhancer "enhancer=$choice" "$own/$choice"; done        # crops in noise -> checkpoints
for choice in $enhancers; do stage 3 enhance "enhancer=$choice" "$own/$choice" "enhance.out=\${exp_root}/speech/enhance/audio/$choice"; done
stage 4 evaluate                                                                                   # wavs -> scores
stage 5 bands                                                                                      # scores -> tables and figure by SNR
stage 5 compare                                                                                    # scores -> what is claimed of them
recipe=speech/enhance_voicebank # six real pairs; likewise speech/enhance_rooms, mixes in rooms
stage 6 mix
for choice in $enhancers; do stage 7 enhance "enhancer=$choice" "$own/$choice" "enhance.out=\${exp_root}/$recipe/audio/$choice"; done
stage 8 evaluate
stage 9 report
