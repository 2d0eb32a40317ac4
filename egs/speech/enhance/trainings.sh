#!/usr/bin/env bash
# What chance in training is worth: the enhancers of run.sh trained again by other seeds, on its mixes and scored beside its systems.
# enhancers=transducer seeds=2 ./trainings.sh adds one; what is there is not made again. Claims are then of all trainings of a system.
# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../../tools/stages.sh"
recipe=speech/enhance
enhancers=${enhancers-transducer decoder_only conformer latents mask}
freely=${freely-$(for choice in $enhancers; do case $choice in transducer | decoder_only) echo "$choice" ;; esac; done | xargs)}
systems="$enhancers ${freely:+${freely// /_free }_free}"
seeds=${seeds-1 2 3 4}
folder="\${exp_root}/speech/enhance"
again() { for seed in $seeds; do for name in $1; do "$2"; done; done; }
train() { stage 2 train_enhancer "enhancer=$name" "exp_dir=$folder/$name@$seed" "seed=$seed"; }
free() { stage 2 train_enhancer "enhancer=$name" "exp_dir=$folder/${name}_free@$seed" "train.start_from=$folder/$name@$seed/train" "seed=$seed"; }
enhance() { stage 3 enhance "enhancer=${name%_free}" "exp_dir=$folder/$name@$seed" "enhance.out=$folder/audio/$name@$seed"; }

stage 0 prepare                                           # corpus -> manifests
stage 1 mix                                               # manifests -> fixed mixes, the same for all seeds
again "$enhancers" train                                  # crops in noise -> checkpoints
recipe=speech/enhance_freely again "$freely" free         # and their own codes -> checkpoints
again "$systems" enhance                                  # mixes -> wavs
stage 4 evaluate                                          # wavs -> scores
stage 5 compare                                           # scores -> claims over recordings and trainings
