#!/usr/bin/env bash
# Text to speech on LibriTTS, several speakers. ./run.sh data.corpus.root=/corpora/LibriTTS
# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../../tools/stages.sh"
recipe=libritts/tts

stage 0 prepare      # corpus                 -> manifests
stage 1 tokenize     # manifests              -> token store
stage 2 align        # manifests              -> phonemes and their durations
stage 3 train        # tokens, alignments     -> checkpoints
stage 4 synthesize   # checkpoint, test texts -> wavs
stage 5 decode       # test tokens            -> wavs, what the tokenizer alone loses
stage 6 evaluate     # wavs                   -> scores
stage 7 report       # scores, logs, wavs     -> report.html
