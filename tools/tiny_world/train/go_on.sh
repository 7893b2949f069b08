#!/usr/bin/env bash
# Go on training from the shipped files in three device calls of at most 9.5 minutes: go_on.sh PART FOLDER
# FOLDER is read and written; what it lacks comes from tiny/. The decoder's shapes come first: see docs/tiny-model.md.
set -u
part=$1 folder=$2
train() { python3 -m tools.tiny_world.train "$1" --folder "$folder" "${@:2}"; }
python3 -m tools.tiny_world.train.start --folder "$folder"
case $part in
  1) train video_vae --only-decoder --minutes 8.5 & train vocoder --rate 5e-4 --minutes 8.5 & wait ;;
  2) train transformer --rate 1e-3 --minutes 8.5 ;;
  3) train upsampler --minutes 1.5; train distil --minutes 4
     python3 -m tools.tiny_world.train.export --folder "$folder" --target "$folder/tiny"
     timeout 150 python3 -m bench quality --folder "$folder/tiny" --prompts 200 --recipe distilled_one_stage \
       --keep "$folder/kept" --out "$folder/quality.json" ;;
esac
