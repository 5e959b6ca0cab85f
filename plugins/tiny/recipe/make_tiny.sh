#!/usr/bin/env bash
# Makes the tiny model anew, by Swift itself. Run it in an environment where Swift is installed:
#
#   plugins/tiny/recipe/make_tiny.sh SOURCE_FOLDER WORK_FOLDER [OUTPUT_FOLDER]
#
# SOURCE_FOLDER: the data/ folder of LLaMA-Factory (see prepare.py). Without OUTPUT_FOLDER the result stays in WORK_FOLDER/model.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,6p' "$0"; exit 2; }
source=$1 work=$2 output=${3:-$2/model}
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python}
swift=("$python" -m swift)
mkdir -p "$work"

"$python" "$here/prepare.py" "$source" "$work"
"$python" "$here/build_base.py" "$work/vocabulary.jsonl" "$work/base"
"${swift[@]}" pt -c "$here/pt.yaml" --model "$work/base" --dataset "$work/text.jsonl" -o "$work/pt"
"${swift[@]}" sft -c "$here/sft.yaml" --model "$work/pt/final" --dataset "$work/chat.jsonl" -o "$work/sft"
"$python" "$here/finish.py" "$work/sft/final" "$work/base" "$output"
