#!/usr/bin/env bash
# The codecs and vocoders that come with the package. AUDIOTOK_SPEECH=FOLDER ./run.sh; tools/ship_weights.py then puts them there.
# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../../tools/stages.sh"
recipe=codec/default
stage 0 prepare     # corpora   -> manifests
stage 1 train_codec # manifests -> codec
recipe=codec/single
stage 1 train_codec
recipe=codec/decoder
stage 2 train_codec # codec     -> a better decoder of the same codes
recipe=codec/single_decoder
stage 2 train_codec
recipe=vocoder/units
stage 3 fit         # manifests -> k-means units
stage 4 train_codec # manifests -> vocoder
recipe=vocoder/dmel
stage 4 train_codec
