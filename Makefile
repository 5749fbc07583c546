# What people do here. `make help` lists it.
PYTHON ?= python3
WORK ?= work
PORT ?= 5000
LAUNCHER ?= kubernetes
IMAGE ?= everest:latest
BASE_IMAGE ?= python:3.11-slim
TARGET ?= job
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Local by default: what a user's shell has set elsewhere is for other commands.
export EVEREST_WORK := $(WORK)

.DEFAULT_GOAL := help
.PHONY: help setup demo submit sweep test test-trainjob test-long check image install ui bench bench-data docs lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: $(READY) ## install the locked requirements and this project into .venv

$(READY): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version). Try make PYTHON=python3.12" >&2; exit 2; }
	@echo "Installing into $(VENV): about 6 GB, some minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# These stay here, whatever .env says of a platform, and whatever characters the folder's name has.
AT = $(shell realpath -m -- "$(WORK)" | sed 's/%/%25/g; s/?/%3F/g')
demo ui: export EVEREST_MLFLOW_URI := sqlite:///$(AT)/mlflow.db
ui: export EVEREST_STUDIES := sqlite:///$(AT)/optuna.db

ifdef VIDEOS
demo: $(READY) ## the whole journey in minutes; VIDEOS=folder pre-trains on your own videos
	$(BIN)/everest pretrain --recipe clips-pretrain --optim.micro_batch 24 --data.train "$(VIDEOS)"
	$(BIN)/everest figures "$(WORK)/clips-pretrain" --video "$(VIDEOS)"
	@$(BIN)/python -m everest.demo clips
else
demo: $(READY)
	$(BIN)/everest data synth "$(WORK)/demo"
	$(BIN)/everest data pack "$(WORK)/demo/train.csv" "$(WORK)/demo/train" --short-side 64
	$(BIN)/everest data pack "$(WORK)/demo/val.csv" "$(WORK)/demo/val" --short-side 64
	$(BIN)/everest pretrain --recipe demo-pretrain --optim.micro_batch 64 $(DEMO_DATA)
	$(BIN)/everest finetune --recipe demo-finetune --optim.micro_batch 16 $(DEMO_DATA) --init "$(WORK)/demo-pretrain"
	$(BIN)/everest finetune --recipe demo-finetune --optim.micro_batch 16 $(DEMO_DATA) --init null --name demo-scratch
	$(BIN)/everest predict models:/demo-finetune@candidate "$(WORK)/demo/videos/00640.mp4" --top 3
	@$(BIN)/python -m everest.demo synthetic
endif
DEMO_DATA = --data.train "$(WORK)/demo/train" --data.val "$(WORK)/demo/val"

submit: $(READY) ## RECIPE=… as a job of the cluster (or LAUNCHER=local), watched until it ends; ARGS="--name … --gpus 4 …"
	@test -n "$(RECIPE)" || { echo "which recipe? make submit RECIPE=ucf101-pretrain" >&2; exit 2; }
	@$(BIN)/everest-jobs submit $(RECIPE) --wait --launcher $(LAUNCHER) $(ARGS)

sweep: $(READY) ## SPACE=masking TRIALS=20 PARALLEL=2 search settings here (or LAUNCHER=kubernetes); ARGS="--study … --gpu-hours 9 …"
	@test -n "$(SPACE)" || { echo "which space? make sweep SPACE=masking, or a file" >&2; exit 2; }
	@test $(LAUNCHER) != local -o -e "$(WORK)/demo/train.csv" || $(BIN)/everest data synth "$(WORK)/demo"
	@$(BIN)/everest-sweep launch $(SPACE) --launcher $(LAUNCHER) --trials $(TRIALS) --parallel $(PARALLEL) $(ARGS)
sweep: LAUNCHER = local
TRIALS ?= 20
PARALLEL ?= 1

test: check ## every check and test; PARALLEL_TESTS=2 processes
	$(BIN)/pytest --numprocesses $(PARALLEL_TESTS) --dist loadfile --no-loadscope-reorder
PARALLEL_TESTS ?= 2

test-trainjob: $(READY) ## tests of a cluster once more, with TrainJobs
	EVEREST_TEST_OPERATOR=trainjob $(BIN)/pytest tests/cluster

test-long: $(READY) ## tests that take many minutes
	$(BIN)/pytest -m long

check: $(READY) ## formatting, lint, types, imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

image: ## the image of jobs (TARGET=platform: of MLflow), by docker, podman or buildah; IMAGE=name:tag BASE_IMAGE=…
	@for builder in docker podman buildah; do \
	  if $$builder info >/dev/null 2>&1; then exec $$builder build --tag $(IMAGE) --build-arg BASE_IMAGE=$(BASE_IMAGE) \
	    --build-arg COMMIT=$$(git rev-parse HEAD) --target $(TARGET) --file Dockerfile .; fi; \
	done; echo "neither docker, podman nor buildah answers here" >&2; exit 2

install: ## MLflow, PostgreSQL, optuna-dashboard into a cluster; RELEASE=everest NAMESPACE=everest ARGS="--values mine.yaml"
	@command -v helm >/dev/null || { echo "helm (3 or newer) is needed, and is not on this machine" >&2; exit 2; }
	helm upgrade --install $(RELEASE) helm/everest --namespace $(NAMESPACE) --create-namespace --wait --timeout 10m $(ARGS) || \
	  { status=$$?; kubectl -n $(NAMESPACE) get pods,persistentvolumeclaims; \
	    echo "see docs/platform.md, \"Where an install fails\"" >&2; exit $$status; }
RELEASE ?= everest
NAMESPACE ?= everest

ui: $(READY) ## MLflow at http://127.0.0.1:5000 (PORT=…) and optuna-dashboard at 8080 (SWEEPS_PORT=…), of RELEASE or of what is here
	@$(BIN)/python -m sweeps.ui $(PORT) $(SWEEPS_PORT) $(S3_PORT) $(DATABASE_PORT) "$(NAMESPACE)" "$(RELEASE)" \
	  "$(findstring command,$(origin NAMESPACE) $(origin RELEASE))"
SWEEPS_PORT ?= 8080
S3_PORT ?= 7070
DATABASE_PORT ?= 5432

bench: $(READY) ## a training step beside the transformers library's VideoMAE; JSON=file PLOT=file ARGS="--sizes base …"
	$(BIN)/python -m benchmarks.step $(if $(JSON),--json "$(JSON)") $(if $(PLOT),--plot "$(PLOT)") $(ARGS)

bench-data: $(READY) ## clips a second to finished batches, beside bare decoders; VIDEOS=folder JSON=file
	$(BIN)/python -m benchmarks.data $(if $(VIDEOS),--videos "$(VIDEOS)") $(if $(JSON),--json "$(JSON)") $(ARGS)

docs: $(READY) ## rewrite the pages that are made from the code
	$(BIN)/python -m tests.test_docs

lock: $(READY) ## resolve the requirements files anew
	$(LOCK) pyproject.toml --upgrade --output-file requirements.txt
	$(LOCK) pyproject.toml --extra dev --constraint requirements.txt --output-file requirements-dev.txt
	$(LOCK) requirements-platform.in --constraint requirements.txt --output-file requirements-platform.txt
LOCK = $(BIN)/uv pip compile --generate-hashes --no-emit-index-url --no-annotate --no-header \
  --python-version 3.11 --quiet

clean: ## remove .venv and caches; runs in $(WORK) stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
