# Needs Python 3.10 or newer, make, and a package index. Everything is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Two processes: most tests keep one core busy. Each trains its own small model, so more are no gain.
PYTEST_ARGS ?= -n 2 --dist loadfile
PROJECTS := runtime/pyproject.toml vitsd/pyproject.toml export/pyproject.toml constraints.txt

.PHONY: demo test bench arm64 dist lint clean

demo: $(VENV)/.installed  ## train on handwritten digits, export, check, predict
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tools/demo.py

test: $(VENV)/.installed-tests  ## the test suite
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: $(VENV)/.installed  ## what is promised about speed and size, measured; writes benchmarks/results/
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python benchmarks/run.py $(BENCH_ARGS)

arm64: $(VENV)/.installed  ## the runtime on emulated 64-bit Arm Linux; needs root, and Debian's debootstrap and qemu-user-static
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tools/arm64/run.py $(ARM64_ARGS)

dist: $(VENV)/.installed  ## wheels of the three distributions in dist/
	for d in runtime vitsd export; do $(BIN)/python -m pip wheel --quiet --no-deps -w dist ./$$d || exit 1; done

lint: $(VENV)/.installed-tests
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) dist

$(VENV)/.installed: $(PROJECTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed (make PYTHON=...)")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e ./runtime -e "./vitsd[tensorflow,digits]" -e ./export
	touch $@

$(VENV)/.installed-tests: $(VENV)/.installed
	$(PIP) pytest pytest-timeout pytest-xdist hypothesis "jax[cpu]" tensorboard tf-keras huggingface-hub ruff
	touch $@
