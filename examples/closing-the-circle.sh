#!/usr/bin/env bash
# The whole circle on one machine, small: code becomes shards, a model is trained on them, the model asks itself questions, what it
# answers is run in the sandbox, what passes becomes instruct shards, the model is tuned on those and on its code, and scored.
#   examples/closing-the-circle.sh [FOLDER]
# Every step is real. A model of this size keeps no triplet of its own; then the loop runs once more with a scripted model, whose
# replies were written by hand (examples/replies.yaml), and the model is tuned on what of those passes. The scores come as they are.
# Settings, from the environment:
#   SOURCE       a folder of Python code; this repository
#   STEPS        of the training; 60
#   TUNE_STEPS   of the fine-tuning; 20
#   BATCH_TOKENS of a step of both, a multiple of 1,024; 4096
#   MODEL_YAML   a file with the keys of a model (docs/SELF_INSTRUCT.md) to be asked instead of the one trained here
#   CHAT         whether it is asked in messages; false
#   LIMIT        HumanEval problems that are scored; 4
#   CODEMILL     the command; .venv/bin/codemill
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-build/circle}
codemill=${CODEMILL:-.venv/bin/codemill}
batch_tokens=${BATCH_TOKENS:-4096}
mkdir -p "$out"

# Have a model ask itself questions, and keep what passes: its keys (a file), the number of questions, whether it chats, the output.
self_instruct() {
	cat > "$4.yaml" <<-YAML
	models:
	  it:
	$(sed 's/^/    /' "$1")
	questions: {backend: it, count: $2, batch: $2, max_tokens: 200, chat: $3}
	tests: {backend: it, max_tokens: 100, chat: $3}
	solutions: {backend: it, samples: 2, max_tokens: 100, chat: $3}
	dataset: {tokenizer: $out/code/tokenizer.model, length: 1024}
	output: {path: $4}
	YAML
	"$codemill" self-instruct "$4.yaml"
}

"$codemill" build examples/minimal.yaml --set output.path="$out/code" --set sources.0.path="${SOURCE:-.}"

cat > "$out/train.yaml" <<YAML
model: {preset: tiny}
data: {datasets: [{path: $out/code}]}
steps: ${STEPS:-60}
batch: {tokens: $batch_tokens}
output: {path: $out/model}
YAML
"$codemill" train "$out/train.yaml" --fresh

printf 'kind: checkpoint\nmodel: %s\n' "$out/model" > "$out/own-model.yaml"
instruct=$out/instruct
self_instruct "${MODEL_YAML:-$out/own-model.yaml}" 4 "${CHAT:-false}" "$instruct"

if [ ! -f "$instruct/manifest.json" ]; then
	echo "the model kept no triplet of its own: what follows is tuned on triplets whose replies were written by hand"
	instruct=$out/instruct-by-hand
	coproc server { exec "$(dirname "$(command -v "$codemill")")/python" examples/scripted_model.py examples/replies.yaml; }
	trap 'kill "$server_PID"' EXIT
	read -r url <&"${server[0]}"
	printf 'url: %s\n' "$url" > "$out/scripted-model.yaml"
	self_instruct "$out/scripted-model.yaml" 14 true "$instruct"
fi

cat > "$out/tune.yaml" <<YAML
init: $out/model
stage: instruct
data: {datasets: [{path: $instruct, weight: 0.94}, {path: $out/code, weight: 0.06}]}
steps: ${TUNE_STEPS:-20}
batch: {tokens: $batch_tokens}
output: {path: $out/tuned}
YAML
"$codemill" train "$out/tune.yaml" --fresh
"$codemill" evaluate "$out/tuned" --benchmark humaneval --limit "${LIMIT:-4}" --max-tokens 48 --output "$out/evaluation"
echo; echo made:
printf '  %s\n' "$out/code" "$out/model" "$instruct" "$out/tuned" "$out/evaluation/result.json"
