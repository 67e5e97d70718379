# The only commands a contributor must learn. All of them share one environment, .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# The one torch that the project is tested with; the package itself takes any from 2.10 on.
TORCH  := torch==2.13.0
# Where torch brings no Triton of its own (builds for the CPU): the one that the kernels' resource limits were measured
# with, and a NumPy that its interpreter works with.
TRITON := triton==3.6.0 numpy<2.4

.PHONY: demo test lint format bench sanitize build clean help

help:
	@echo "make demo     set up and dehaze a bundled photograph"
	@echo "make test     set up and run the tests"
	@echo "make lint     ruff, mypy, clang-format"
	@echo "make format   let ruff and clang-format rewrite the sources"
	@echo "make sanitize test the C++ kernels under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make bench    compare speed with what a user would pick instead"
	@echo "make clean    remove the environment and everything built"

demo: build
	@mkdir -p out
	@$(BIN)/famkern dehaze examples/lake-sherburne-hazy.jpg -o out/lake-sherburne-clear.jpg --compare --overwrite
	@echo "before | after: out/lake-sherburne-clear-compare.jpg    result: out/lake-sherburne-clear.jpg"

test: build
	$(BIN)/python -m pytest $(PYTEST)

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'csrc/*.cuh')

format: build
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'csrc/*.cuh')

bench: build
	$(BIN)/python -m pip install -q -e '.[bench]'
	$(BIN)/python -m pytest benchmarks -q $(PYTEST)

# In a copy, so that the ordinary build stays as it is.
SANITIZERS := address,undefined
sanitize: build
	rm -rf build/sanitize && mkdir -p build/sanitize
	cp -r setup.py pyproject.toml README.md LICENSE csrc famkern kernels training tests build/sanitize
	rm -f build/sanitize/famkern/*.so
	cd build/sanitize && LDFLAGS="-fsanitize=$(SANITIZERS)" \
	    CXXFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=$(SANITIZERS) -fno-sanitize-recover=undefined" \
	    $(CURDIR)/$(BIN)/python setup.py -q build_ext --inplace
	cd build/sanitize && ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=. \
	    LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	    $(CURDIR)/$(BIN)/python -m pytest -q tests/ops/test_stages.py \
	    -k "formulas and 16 or leave_the_bits or batch or halo or 16_bits or past_the_caches or several"

# Compiled parts are brought up to date by ninja in well under a second where nothing changed.
build: $(VENV)/.installed
	@$(BIN)/python setup.py -q build_ext --inplace

$(VENV)/.installed: pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "famkern needs Python 3.10 or newer; choose one with: make PYTHON=/path/to/python3"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	    { echo "Python's venv module is missing (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	$(BIN)/python -m pip install -q --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@$(BIN)/python -c 'import triton' 2>/dev/null || \
	    $(BIN)/python -m pip install -q --disable-pip-version-check $(foreach package,$(TRITON),'$(package)')
	@touch $@

clean:
	rm -rf $(VENV) build dist out *.egg-info famkern/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
