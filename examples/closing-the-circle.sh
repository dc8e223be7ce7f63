#!/usr/bin/env bash
# The whole circle on one machine, small: code becomes shards, a model is trained on them, the model asks itself questions, what it
# answers is run in the sandbox, what passes becomes instruct shards, the model is tuned on those and on its code, and scored.
#   examples/closing-the-circle.sh [FOLDER]
# Every step is real; a model of this size answers nothing, so the triplets that it is tuned on come from `codemill
# self-instruct` with whatever model MODEL_YAML names, or, without one, from the model itself, which keeps none.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-build/circle}
steps=${STEPS:-60}
codemill=${CODEMILL:-.venv/bin/codemill}
mkdir -p "$out"

"$codemill" build examples/minimal.yaml --set output.path="$out/code"

cat > "$out/train.yaml" <<YAML
model: {preset: tiny}
data: {datasets: [{path: $out/code}]}
steps: $steps
batch: {tokens: 4096}
output: {path: $out/model}
YAML
"$codemill" train "$out/train.yaml" --fresh

model=${MODEL_YAML:+$(cat "$MODEL_YAML")}
cat > "$out/self-instruct.yaml" <<YAML
models:
  it: {${model:-kind: checkpoint, model: $out/model}}
questions: {backend: it, count: 4, batch: 2, max_tokens: 200, chat: ${CHAT:-false}}
tests: {backend: it, max_tokens: 100, chat: ${CHAT:-false}}
solutions: {backend: it, samples: 2, max_tokens: 100, chat: ${CHAT:-false}}
dataset: {tokenizer: $out/code/tokenizer.model, length: 1024}
output: {path: $out/instruct}
YAML
"$codemill" self-instruct "$out/self-instruct.yaml"

if [ -f "$out/instruct/manifest.json" ]; then
	cat > "$out/tune.yaml" <<YAML
init: $out/model
stage: instruct
data: {datasets: [{path: $out/instruct, weight: 0.94}, {path: $out/code, weight: 0.06}]}
steps: 20
batch: {tokens: 4096}
output: {path: $out/tuned}
YAML
	"$codemill" train "$out/tune.yaml" --fresh
	tuned=$out/tuned
else
	echo "no triplet was kept, as is to be expected of so small a model: it is scored as it is"
	tuned=$out/model
fi
"$codemill" evaluate "$tuned" --benchmark humaneval --limit "${LIMIT:-4}" --max-tokens 48 --output "$out/evaluation"
echo; echo made:
printf '  %s\n' "$out/code" "$out/model" "$out/instruct" "$tuned" "$out/evaluation/result.json"
