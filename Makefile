# Needs Python 3.10 or newer, make, and a package index. Everything is installed into $(VENV).
PYTHON ?= python3
# One environment for each Python: .venv, .venv.13 ...
VENV ?= .venv$(patsubst python3%,%,$(notdir $(PYTHON)))
BIN := $(VENV)/bin
# Without --no-compile pip would compile thousands of files that nothing here imports. What is imported
# is compiled once and kept, also where the environment (as containers' often does) says not to:
# otherwise every process compiles TensorFlow's 3,000 files anew, for 10 seconds and more.
unexport PYTHONDONTWRITEBYTECODE
PIP_INSTALL := python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
PIP := $(BIN)/$(PIP_INSTALL)
RUN := PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python
# Two processes: most tests keep one core busy.
PYTEST_ARGS ?= -n 2 --dist worksteal
PROJECTS := pyproject.toml runtime/pyproject.toml vitsd/pyproject.toml export/pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-lowest test-cluster test-batch test-distributed test-servers fuzz soak format lint typecheck docs bench bench-peers arm64 dist clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "%-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed  ## train on handwritten digits, export, check, predict
	$(RUN) tools/demo.py

test: $(VENV)/.installed-tests  ## the test suite; PYTHON=python3.13 for another Python
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-fast: $(VENV)/.installed-tests  ## what is not marked slow, for the inner loop
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "not slow"

test-lowest: $(VENV)/.installed  ## with the lowest versions that we allow; LOWEST_ARGS="--only litert --python python3.10"
	$(RUN) tools/lowest.py $(LOWEST_ARGS)

test-cluster: test-batch test-distributed test-servers  ## what is marked cluster: the next three targets

test-batch: $(VENV)-cluster/.installed  ## batches on real Ray and Spark, which needs Java 17; BATCH_ARGS="-k spark"
	$(VENV)-cluster/bin/python -m pytest -m cluster tests/runtime/batch $(BATCH_ARGS)

test-distributed: $(VENV)/.installed-tests  ## training in several processes
	$(RUN) -m pytest -m cluster tests/vitsd/training

test-servers: $(VENV)/.installed-tests $(VENV)-servers/.installed  ## exported folders with other model servers, and their schemas
	VITSD_TEST_SERVERS=$(VENV)-servers $(BIN)/python -m pytest -m cluster tests/export/layouts

fuzz: $(VENV)/.installed  ## hostile inputs of every kind; FUZZ_ARGS="--inputs 20000 --seconds 3600 --only tflite,onnx"
	$(RUN) tools/fuzz/run.py $(FUZZ_ARGS)

soak: $(VENV)/.installed-tests  ## a server under load for ten minutes; SOAK_ARGS="--seconds 60 --rate 200"
	$(RUN) tools/serving/soak.py $(SOAK_ARGS)

format: $(VENV)/.installed-tests  ## format the code
	$(BIN)/ruff format . && $(BIN)/ruff check --fix-only .

lint: $(VENV)/.installed-tests  ## check style and format
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

typecheck: $(VENV)/.installed-tests  ## mypy --strict on the distributions, tools and benchmarks
	$(BIN)/mypy

docs: $(VENV)/.installed-docs  ## the documentation site, in site/; needs Python 3.11
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs site

bench: $(VENV)/.installed  ## measure what is promised about speed and size; writes benchmarks/results/
	$(RUN) benchmarks/run.py $(BENCH_ARGS)

bench-peers: $(VENV)-peers/.installed  ## our files beside what else one would use; PEERS_ARGS="--quick --data cifar100"
	$(VENV)-peers/bin/python -m benchmarks.peers.run $(PEERS_ARGS)

arm64: $(VENV)/.installed  ## the runtime on emulated 64-bit Arm Linux; needs root, debootstrap and qemu-user-static
	$(RUN) tools/arm64/run.py $(ARM64_ARGS)

dist: $(VENV)/.installed  ## wheels of the three distributions in dist/
	for d in runtime vitsd export; do $(BIN)/python -m pip wheel --quiet --no-deps -w dist ./$$d || exit 1; done

clean:  ## remove what the targets above have made
	rm -rf .venv* dist site fuzz soak

$(VENV)/.installed: $(PROJECTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed (make PYTHON=...)")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e "./runtime[serve,release]" -e "./vitsd[tensorflow,digits]" -e "./export[micro,ethos-u]"
	touch $@

$(VENV)/.installed-tests: $(VENV)/.installed
	$(PIP) pytest pytest-timeout pytest-xdist hypothesis "jax[cpu]" tensorboard tf-keras huggingface-hub ruff mypy types-tqdm \
		"tritonclient[http]" httpx opencv-python-headless playwright
	touch $@

# The engines of clusters are large, and pin much: they have an environment of their own.
$(VENV)-cluster/.installed: $(PROJECTS)
	$(PYTHON) -m venv $(VENV)-cluster
	$(VENV)-cluster/bin/$(PIP_INSTALL) -e "./runtime[litert,ray,spark]" pytest pytest-timeout hypothesis "moto[server]"
	touch $@

# Other servers need other versions of what we have: only their commands and schemas are used.
$(VENV)-servers/.installed: Makefile
	$(PYTHON) -m venv $(VENV)-servers
	$(VENV)-servers/bin/python -m pip install --quiet --disable-pip-version-check mlserver==1.7.1 onnxruntime==1.32.0 \
		"tritonclient[grpc]==2.73.0" tensorflow-serving-api==2.21.0
	touch $@

# So have those whose files ours are compared with; one that can't be installed is left out.
$(VENV)-peers/.installed: $(PROJECTS) benchmarks/peers/requirements.txt
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/python benchmarks/peers/install.py
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) sphinx furo myst-parser
	touch $@
