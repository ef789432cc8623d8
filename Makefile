# Everything a user runs. Needs Python 3.11+ and a package index; the first target makes its own .venv.
PYTHON ?= python3
export EMOTION_HOME ?= $(CURDIR)/data
export DAGSTER_HOME ?= $(abspath $(EMOTION_HOME))/dagster

BIN := .venv/bin
READY := .venv/.installed

.PHONY: demo test ui lint bench clean

demo ui: export PYTHONWARNINGS := ignore

demo: $(READY) $(DAGSTER_HOME)/dagster.yaml
	@mkdir -p "$(EMOTION_HOME)/inbox"
	@# A file that changed in the last five seconds may still be being written, and is left for the next run.
	@for file in data/sample/feedback/*; do \
		copy="$(EMOTION_HOME)/inbox/$${file##*/}"; test -e "$$copy" || { cp "$$file" "$$copy"; new=1; }; \
	done; test -z "$$new" || sleep 6
	@$(BIN)/dagster asset materialize --select '*' -m emotion_assets.definitions \
		--config-json '{"loggers": {"console": {}}}'
	@$(BIN)/emotion-assets leaderboard
	@echo "The pages: $(EMOTION_HOME)/reports/evaluation.html and $(EMOTION_HOME)/reports/feedback.html"
	@echo
	@echo "Next:"
	@echo "  make ui                                             the asset graph in the browser, schedule and sensor running"
	@echo "  $(BIN)/emotion-assets score \"I can't thank you enough\"  classify a line, or a file of feedback"
	@echo "  EMOTION_DATASET=path/to/folder make demo            the same graph on your own train, validation and test files"

test: $(READY)
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

ui: $(READY) $(DAGSTER_HOME)/dagster.yaml
	@$(BIN)/dagster dev

lint: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: $(READY)
	@$(BIN)/python -m benchmarks

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(DAGSTER_HOME)/dagster.yaml: dagster.yaml
	@mkdir -p "$(DAGSTER_HOME)"
	@cp dagster.yaml "$@"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)
