# make demo · make test · make lint · make bench: each makes the environment first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DEMO := build/demo
MODEL := build/demo-model
READY := $(VENV)/.ready

.PHONY: demo test lint bench env sandbox clean
.DELETE_ON_ERROR:

env: $(READY)

# Debian splits venv from python3.11; where it is missing and may be installed, it is.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "codemill needs $(PYTHON); install it, or say make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "this $(PYTHON) has no venv module; installing Debian's package $(PYTHON)-venv"; \
		{ apt-get update -qq && apt-get install -qq -y $(PYTHON)-venv; } || { \
			echo "could not install it; as root: apt-get install $(PYTHON)-venv" >&2; exit 1; }; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# What holds code that nobody trusts best: Debian's bubblewrap; where it is missing and may be installed, it is.
sandbox:
	@command -v bwrap >/dev/null || { \
		echo "there is no bwrap here; installing Debian's package bubblewrap"; \
		{ apt-get update -qq && apt-get install -qq -y bubblewrap; } || \
			echo "could not install it; tests of that layer are skipped. As root: apt-get install bubblewrap" >&2; }

# The real Python code of this machine, made into training shards, and a tiny model trained on them for a moment.
demo: $(READY)
	$(BIN)/codemill build examples/demo.yaml --set output.path=$(DEMO) \
		--set sources.0.path=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))') \
		--set sources.1.path=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
	@echo
	$(BIN)/codemill inspect $(DEMO)
	@echo
	$(BIN)/codemill verify $(DEMO)
	@echo
	$(BIN)/codemill train examples/demo-train.yaml --fresh --set data.datasets.0.path=$(DEMO) --set output.path=$(MODEL)
	@echo
	$(BIN)/codemill generate $(MODEL) --prefix 'def add(self, ' --suffix "$$(printf '):\n        return self')" --max-new-tokens 16
	@echo; echo made:
	@printf '  %s\n' $(DEMO)/shards $(DEMO)/documents $(DEMO)/dropped $(DEMO)/manifest.json $(DEMO)/report.html \
		$(MODEL)/checkpoints $(MODEL)/loss.png $(MODEL)/metrics.jsonl

# Three processes on two cores: the tests of Ray and of killed processes wait more than they work. Files in the order
# of tests/conftest.py, the slow ones first.
test: $(READY) sandbox
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder -rs

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build
