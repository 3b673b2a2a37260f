# Each target sets up its own .venv when there is none, or when a file it was made from has changed.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
BUILD_INPUTS := setup.py pyproject.toml $(shell find csrc -type f)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Modules are compiled when first imported: without this every process would compile torch's anew.
unexport PYTHONDONTWRITEBYTECODE
# The data set comes while the dependencies are installed.
MAKEFLAGS += --jobs=2

# A virtual environment names its own folder in its scripts: one that was moved or copied is made anew.
$(shell [ "$$(cat $(VENV)/.dependencies 2>/dev/null)" = "$(CURDIR)" ] && $(RUN) -c '' 2>/dev/null \
	|| rm -f $(VENV)/.dependencies $(VENV)/.built)

.PHONY: demo test test-full bench figures codec-figures fuzz corpus lint format clean

demo: $(VENV)/.built .data/.fetched
	$(RUN) -m sparsefl compare --out demo

# Only here are warnings of our own C++ errors: another compiler's new warning must not stop a user.
test test-full: export CPPFLAGS += -Werror
# They build the package once more, from its own archive: ccache, where it is, compiles nothing twice.
test test-full: export PATH := /usr/lib/ccache:$(PATH)
test test-full: export CCACHE_NOHASHDIR := 1
test: $(VENV)/.built .data/.fetched
	tools/test.sh

test-full: $(VENV)/.built .data/.fetched
	tools/test.sh --full

bench: $(VENV)/.built
	$(RUN) -m sparsefl bench --json runs/bench.json --plot runs/bench.png

# The committed results and the figures of README and docs from them; wants a machine that does nothing else.
figures: demo codec-figures
	cp demo/compare.json demo/accuracy.png demo/factors.png bench/results/
	$(RUN) -m sparsefl bench --table all --json bench/results/cpu.json --plot bench/results/cpu.png
	$(RUN) -m sparsefl.bench.claims.summary
	$(RUN) -m sparsefl.bench.claims.costs bench/results/methods.png
	$(RUN) -m sparsefl.bench.tables README.md docs/*.md bench/results

# Those of messages alone, beside what the extra "peers" installs: 5 minutes.
codec-figures: $(VENV)/.built
	$(RUN) -m pip install --quiet --no-build-isolation --no-compile --editable '.[peers]'
	$(RUN) -m sparsefl bench --table codec --json bench/results/codec.json
	$(RUN) -m sparsefl.bench.codec.plots bench/results
	$(RUN) -m sparsefl.bench.tables README.md docs/*.md bench/results

# Damaged messages against the codec under sanitizers, for ten minutes; `tools/fuzz.sh` has more.
fuzz:
	tools/fuzz.sh --seconds 600

# What `make fuzz` starts from, and the golden messages of FORMAT.md with their C header: where the format changed.
corpus: $(VENV)/.built
	tools/fuzz.sh --make
	$(RUN) tools/make_format_header.py
	$(RUN) tests/codec/make_golden.py

lint: $(VENV)/.dependencies
	tools/lint.sh

format: $(VENV)/.dependencies
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .
	find csrc tests/csrc -type f | xargs -r $(VENV)/bin/clang-format -i

clean:
	rm -rf build dist *.egg-info $(VENV)/.built sparsefl/_*.so

$(VENV)/.dependencies: pyproject.toml constraints.txt tools/create_venv.sh
	tools/create_venv.sh "$(PYTHON)" $(VENV)
	echo "$(CURDIR)" > $@

$(VENV)/.built: $(VENV)/.dependencies $(BUILD_INPUTS)
	$(RUN) -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@

# Without the data set the demo runs on the digits that the package ships, so a failed fetch is no error.
.data/.fetched: tools/fetch_fashion_mnist.sh
	mkdir -p .data
	tools/fetch_fashion_mnist.sh && touch $@ \
		|| echo "Fashion-MNIST is not to be had here: the demo falls back to the UCI digits."
