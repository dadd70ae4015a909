# The same verbs for people and for .ci/run. Each makes what it needs: Python 3.11+ and make are enough.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
INPUTS := pyproject.toml runtime/pyproject.toml constraints.txt

# Tests start a hundred processes: compiled modules are kept even where the environment says otherwise.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast web-test check docs bench gpu release-check clean

# Two minutes of training on the Python standard library's source, then one model file, then text.
demo: $(VENV)/.installed
	$(BIN)/charrnn train --time 2m --out runs/demo --overwrite
	$(BIN)/charrnn export runs/demo/best.pt runs/demo/model.onnx
	@echo
	$(BIN)/charrnn sample runs/demo/model.onnx --length 1000 --temperature 0.7 --seed 1
	@echo
	@echo "Your turn (. $(BIN)/activate first):"
	@echo "    charrnn train book.txt --time 10m"
	@echo "    charrnn export runs/book/best.pt book.onnx"
	@echo "    charrnn sample book.onnx --prompt 'It was' --temperature 0.8"

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# The fast loop while you change something.
test-fast: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder -m "not slow"

# The JavaScript sampler under Node, and pages in Chromium (Debian: apt-get install nodejs npm chromium).
# Scripts of npm packages are not run: onnxruntime-node's would fetch CUDA.
web-test: $(VENV)/.installed-dev tests/web/node_modules/.package-lock.json
	$(PIP) --editable ".[browser]"
	$(BIN)/python -c "from charrnn.web.onnxruntime import fetch_files; fetch_files()"
	$(BIN)/python -m pytest -rs tests/web tests/browser

tests/web/node_modules/.package-lock.json: tests/web/package-lock.json
	cd tests/web && npm ci --ignore-scripts
	touch $@

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The pages of docs/ with a reference made from the program, in build/docs. A warning or a dead link is an error.
docs: $(VENV)/.installed
	$(PIP) --editable ".[docs]"
	$(BIN)/python -m mkdocs build --strict --clean
	@echo "open build/docs/index.html"

# Prints the tables that the README quotes.
bench: $(VENV)/.installed
	for script in training sampling items smiles; do echo "== $$script"; $(BIN)/python benchmarks/$$script.py || exit 1; done

# What a release publishes, built and then used in environments that hold nothing else (RELEASE.md).
release-check: $(VENV)/.installed
	$(PIP) --editable ".[release]"
	$(BIN)/python release/check.py $(if $(DIST),--dist $(DIST))

# All that needs a GPU, in eight minutes and one table: needs torch with CUDA and numpy, no network, and installs nothing.
# TEXT=path names tinyshakespeare; DRY=1 does the same with tiny sizes on the CPU.
gpu:
	$(PYTHON) benchmarks/gpu.py $(TEXT) $(if $(DRY),--dry-run)

$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit("charrnn needs Python 3.11 or later, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.made $(INPUTS)
	$(PIP) --editable "./runtime[cpu]" --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.made $(INPUTS)
	$(PIP) --editable "./runtime[cpu]" --editable ".[dev]"
	$(PIP) --no-deps tritonclient  # one message of it is read; what it requires would hold back protobuf and ml_dtypes
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build runtime/build .mypy_cache .pytest_cache .ruff_cache .hypothesis
