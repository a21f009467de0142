# Everything runs from .venv, which is built on first use: python3, make and git are all a machine needs.
PYTHON ?= python3
PORT ?= 5000
GB ?= 24
BIN := .venv/bin
# The tools' telemetry stays off; stages are started as `python`, which must be the one of .venv.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Compiled modules are kept: without them every stage would start some seconds later.
unexport PYTHONDONTWRITEBYTECODE
# uv would rather install into an environment that happens to be active.
unexport VIRTUAL_ENV CONDA_PREFIX
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
# What Prefect keeps, it keeps in the checkout.
export PREFECT_HOME ?= $(CURDIR)/.prefect

.PHONY: demo check study notebook ui server test lint format deps lock audit sweep adversaries clean

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c "import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit(f'techloop needs Python 3.11 to 3.13; {sys.executable} is {sys.version.split()[0]}. Name another one: make PYTHON=python3.12 ...')"
	@$(PYTHON) -c "import ensurepip" || { echo "$(PYTHON) has no venv module; on Debian: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --python $(BIN)/python --quiet --require-hashes requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --editable .
	@touch $@

demo: .venv/installed  ## the whole pipeline on the built-in source, then the report's path
	$(BIN)/dvc repro
	@echo "$(CURDIR)/reports/index.html"

check: .venv/installed  ## a short run of every stage, and what a GPU would need; another: make check GB=16
	@$(BIN)/python -m stages.check $(GB)

study: .venv/installed  ## every combination of the study, then its table and figure; resumes
	$(BIN)/dvc repro study/dvc.yaml
	@echo "$(CURDIR)/reports/study/summary/study.png"

notebook: .venv/installed  ## runs the notebook, VAEs on images, and writes its page
	$(BIN)/dvc repro notebooks/dvc.yaml
	@echo "$(CURDIR)/reports/vae_mnist.html"

.PHONY: docs help
docs: .venv/installed  ## docs/ and the reference of every module as pages, in site/
	$(BIN)/mkdocs build --quiet --strict
	@echo "$(CURDIR)/site/index.html"

ui: .venv/installed  ## every run in MLflow's UI, on this machine alone; another port: make ui PORT=5001
	@$(BIN)/python -m stages.ui $(PORT)

server: PORT := 4200
server: .venv/installed  ## Prefect's server and UI, for this machine alone; see cluster/README.md
	@echo "http://127.0.0.1:$(PORT) (Ctrl-C ends it). Another terminal finds it after"
	@echo "export PREFECT_API_URL=http://127.0.0.1:$(PORT)/api PREFECT_HOME=$(PREFECT_HOME) DO_NOT_TRACK=1"
	@$(BIN)/prefect server start --host 127.0.0.1 --port $(PORT)

sweep: .venv/installed  ## what the weight of each regulariser does: benchmarks/sweep.csv and .png
	$(BIN)/dvc repro prepare_loops
	$(BIN)/python benchmarks/sweep.py data/loops --out benchmarks

adversaries: .venv/installed  ## discriminators and objectives for equal time: benchmarks/adversaries.*; resumes
	$(BIN)/dvc repro train_audio_vae@kl
	$(BIN)/python benchmarks/adversaries.py data/loops --audio-vae data/audio_vae/kl --out benchmarks

# PYTEST="-m 'not slow'" is all that CI runs.
# One process per core and one thread in each: threads that wait for one another on a busy core crawl.
test: .venv/installed  ## the tests, but for those of 20 s and more; all of CI's: make test PYTEST="-m 'not slow'"
	OMP_NUM_THREADS=1 TECHLOOP_QUICK=1 $(BIN)/python -m pytest --nbmake \
		--numprocesses auto --dist loadfile --no-loadscope-reorder $(PYTEST)

lint: .venv/installed  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed  ## what ruff can fix, and the notebook and its script brought together
	$(BIN)/jupytext --quiet --sync notebooks/vae_mnist.ipynb
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/jupytext --quiet --sync notebooks/vae_mnist.ipynb
	$(BIN)/jupyter nbconvert --log-level ERROR --clear-output --inplace notebooks/vae_mnist.ipynb

deps: .venv/installed  ## after a change of imports: the code that each stage of dvc.yaml depends on
	$(BIN)/python -m techloop.pipeline.deps

lock: .venv/installed  ## after a change of pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 \
		--generate-hashes --no-header pyproject.toml --extra pipeline --group dev -o requirements.lock

# The exit code is 1 after findings, which it prints, and also where it could not look them up.
audit: .venv/installed  ## looks up requirements.lock among the known vulnerabilities; needs the internet
	@found=$$($(BIN)/pip-audit --requirement requirements.lock --require-hashes --disable-pip --strict \
		--progress-spinner off 2> .venv/audit.log) && echo "No known vulnerability." || { \
		if [ -n "$$found" ]; then echo "$$found"; else tail -n 1 .venv/audit.log; \
		echo "The database of known vulnerabilities did not answer, so nothing was checked."; fi; \
		exit 1; } >&2

clean:  ## deletes the environment and every tool's leavings; data/ and the DVC cache stay
	rm -rf .venv build site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@awk -F '  ## ' '/^[a-z]+:.*  ## / {split($$1, target, ":"); printf "%-12s%s\n", target[1], $$2}' Makefile
