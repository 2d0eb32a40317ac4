#!/usr/bin/env bash
# How often each recipe stumbles over 200 sentences made for it, in one table and on one page.
# out=exp/prompts/stumbles_2 recipes="tts tts_valle_r" ./stumbles.sh seed=2; what is spoken already in a folder is not spoken again.
# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../../tools/stages.sh"
recipes=${recipes-tts tts_valle_r}
texts=egs/prompts/tts/sentences_200.tsv
out=${out-exp/prompts/stumbles}

mkdir -p "$out"
tail -n +2 "$texts" | cut -f 2 > "$out/sentences.txt"
systems=()
for name in $recipes; do
  recipe=prompts/$name
  systems+=("$name=$out/audio/$name")
  [[ -d $out/audio/$name ]] && [[ -z $dry ]] && { echo "$out/audio/$name is there already"; next=1; continue; }
  stage 0 synthesize "synthesize.text=$out/sentences.txt" "synthesize.out=$out/audio/$name" synthesize.language=en # texts -> wavs
done
((last < 1)) || $dry python tools/score_texts.py "$texts" --system "${systems[@]}" --language en --out "$out" # wavs -> scores, page
