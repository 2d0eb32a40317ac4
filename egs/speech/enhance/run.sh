#!/usr/bin/env bash
# Enhancers on fixed mixes of unheard speakers in unheard noise at -5 to 15 dB. AUDIOTOK_SPEECH=FOLDER ./run.sh
# enhancers=mask ./run.sh adds one; what is there is not made again. Those of `freely` also learn on from what they say themselves.
# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../../tools/stages.sh"
recipe=speech/enhance
enhancers=${enhancers-transducer decoder_only conformer latents mask}
freely=${freely-$(for choice in $enhancers; do case $choice in transducer | decoder_only) echo "$choice" ;; esac; done | xargs)}
systems="$enhancers ${freely:+${freely// /_free }_free}"
own="exp_dir=\${exp_root}/speech/enhance" # each is trained in a folder of its own below, all are scored together
stage 0 prepare                                                                                    # corpus -> manifests
stage 1 mix                                                                                        # manifests -> fixed mixes
for choice in $enhancers; do stage 2 train_enhancer "enhancer=$choice" "$own/$choice"; done        # crops in noise -> checkpoints
recipe=speech/enhance_freely
for choice in $freely; do stage 2 train_enhancer "enhancer=$choice" "$own/${choice}_free"; done    # and their own codes -> checkpoints
recipe=speech/enhance
for name in $systems; do stage 3 enhance "enhancer=${name%_free}" "$own/$name" "enhance.out=\${exp_root}/$recipe/audio/$name"; done
stage 4 evaluate                                                                                   # wavs -> scores
stage 5 bands                                                                                      # scores -> tables and figure by SNR
stage 5 compare                                                                                    # scores -> what is claimed of them
recipe=${also-speech/enhance_voicebank} && [[ $recipe ]] || exit 0 # six real pairs; also=speech/enhance_rooms for mixes in rooms, also= for none
stage 6 mix
for name in $systems; do stage 7 enhance "enhancer=${name%_free}" "$own/$name" "enhance.out=\${exp_root}/$recipe/audio/$name"; done
stage 8 evaluate
stage 9 report
