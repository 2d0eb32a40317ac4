#!/usr/bin/env bash
# Two people at once told apart, on fixed mixtures of unheard speakers. AUDIOTOK_SPEECH=FOLDER ./run.sh
# separators=mask_two ./run.sh adds one; what is there is not made again.
# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../../tools/stages.sh"
recipe=speech/separate
separators=${separators-conformer_two mask_two}
own="exp_dir=\${exp_root}/speech/separate" # each is trained in a folder of its own below, all are scored together

stage 0 prepare                                                                                    # corpus -> manifests
stage 1 mix                                                                                        # manifests -> fixed mixtures
for choice in $separators; do stage 2 train_enhancer "enhancer=$choice" "$own/$choice"; done       # crops of two -> checkpoints
for choice in $separators; do stage 3 separate "enhancer=$choice" "$own/$choice" "enhance.out=\${exp_root}/speech/separate/audio/$choice"; done
stage 4 evaluate                                                                                   # wavs -> scores
stage 5 compare                                                                                    # scores -> improvement over the mixture
