# The only commands a contributor must learn. All of them share one environment, .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# The one torch that the project is tested with; the package itself takes any from 2.10 on.
TORCH  := torch==2.13.0
# Where torch brings no Triton of its own (builds for the CPU): the one that the kernels' resource limits were measured
# with, and a NumPy that its interpreter works with.
TRITON := triton==3.6.0 numpy<2.4

.PHONY: demo test oldest lint format docs fuzz bench bench-check native instructions cross emulate sanitize kill soak gpu-check gpu-train build wheel clean help

help:
	@echo "make demo     set up and dehaze a bundled photograph"
	@echo "make test     set up and run the tests"
	@echo "make lint     ruff, mypy, clang-format"
	@echo "make format   let ruff and clang-format rewrite the sources"
	@echo "make docs     build the site in build/site"
	@echo "make native   test the C++ kernels without torch, on every instruction set of this machine"
	@echo "make instructions  count what each stage of the AVX2 kernels executes, and compare with the record"
	@echo "make cross    the same for aarch64, under an emulator"
	@echo "make emulate  test the CUDA kernels on the CPU, one fiber a thread, under sanitizers"
	@echo "make sanitize test the C++ kernels under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make gpu-check  on a machine with a GPU: build, test, sanitize and time the kernels for it"
	@echo "make gpu-train  on a machine with a GPU: train the U-shaped student from one packed file of data"
	@echo "make fuzz     read and write a hundred thousand mutated picture files"
	@echo "make kill     kill a batch at random moments, twenty times, and see what is left"
	@echo "make soak     two hours of a web page and of films, with an eye on memory; fewer: make soak MINUTES=10"
	@echo "make bench    compare speed with what a user would pick instead"
	@echo "make bench-check BASE=REF  compare this tree's speed with that of another commit"
	@echo "make wheel    the source distribution and the wheel, in dist"
	@echo "make oldest   test that wheel with the oldest PyTorch and NumPy that it may meet"
	@echo "make clean    remove the environment and everything built"

demo: build
	@mkdir -p out
	@$(BIN)/famkern dehaze examples/lake-sherburne-hazy.jpg -o out/lake-sherburne-clear.jpg --compare --overwrite
	@echo "before | after: out/lake-sherburne-clear-compare.jpg    result: out/lake-sherburne-clear.jpg"

# One process a core, up to four; each test file may use more threads, which are not to wait for each other at full speed.
test: build
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(PYTEST)

# All C++ and CUDA.
SOURCES := 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'csrc/*.cuh' 'tests/native/*.cpp' 'tests/native/*.h' 'tests/cuda/*.cpp' 'tests/cuda/*.h'
lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files $(SOURCES))

format: build
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files $(SOURCES))

docs: build
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q

# Mutated picture files; findings are kept in out/fuzz. Fewer: make fuzz COUNT=1000.
COUNT := 100000
fuzz: build
	$(BIN)/python tests/images/fuzz.py --count $(COUNT)

kill: build
	$(BIN)/python tests/batch/kill.py

soak: MINUTES := 120
soak: build
	$(BIN)/python -m tests.serve.soak --minutes $(MINUTES)

bench: build
	$(BIN)/python -m pip install -q -e '.[bench]'
	$(BIN)/python -m pytest benchmarks -q $(PYTEST)

bench-check: build
	@test -n "$(BASE)" || { echo "which commit to compare with: make bench-check BASE=main~1"; exit 1; }
	$(BIN)/python benchmarks/compare_commits.py "$(BASE)"

# The CPU kernels without torch: the objects that the package is linked from, on every instruction set of this machine...
KERNELS := $(basename $(notdir $(wildcard csrc/cpu/kernels/*.cpp)))
NATIVE  := -std=c++17 -ffp-contract=off -Wall -Wextra -Icsrc -DFAMKERN_ISA=portable -DFAMKERN_ISA_PORTABLE -pthread
native: build
	@mkdir -p build/native
	$(CXX) -O2 $(NATIVE) tests/native/*.cpp $(KERNELS:%=build/ninja/%.*.o) -o build/native/test
	build/native/test

# ... what each stage executes there, counted by valgrind, beside tests/native/instructions.json (anew: RECORD=--record) ...
instructions: native
	$(BIN)/python tests/native/instructions.py build/native/test $(RECORD)

# ... and a part of that compiled for aarch64, under an emulator.
CROSS    := aarch64-linux-gnu-g++
EMULATOR := qemu-aarch64
cross:
	@for tool in $(CROSS) $(EMULATOR); do command -v $$tool >/dev/null || { echo "make cross needs $$tool" \
	    "(on Debian and Ubuntu: apt install g++-aarch64-linux-gnu qemu-user)"; exit 1; }; done
	@mkdir -p build/cross
	$(CROSS) -O2 $(NATIVE) -static csrc/cpu/kernels/*.cpp tests/native/*.cpp -o build/cross/test
	$(EMULATOR) build/cross/test quick

# The CUDA kernels on this CPU, one fiber a thread, in two orders, with sanitizers; a part of the cases: EMULATE=quick; only
# some stages: EMULATE="down up".
emulate:
	@mkdir -p build/cuda
	for test in affinity stages; do \
	    $(CXX) -O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -std=c++17 -Wall -Wextra -Icsrc \
	        -Itests/native -Itests/cuda -DFAMKERN_ISA=portable -DFAMKERN_ISA_PORTABLE \
	        -x c++ csrc/cuda/$$test.cu tests/cuda/$$test.cpp -o build/cuda/$$test && build/cuda/$$test $(EMULATE) || exit 1; \
	done

# In a copy, so that the ordinary build stays as it is, and up to AVX2, from which AVX-512 differs in its registers alone:
# first without torch (a part of the cases: CASES=quick), then the operators as Python calls them.
SANITIZED_ISAS := portable $(if $(filter x86_64,$(shell uname -m)),avx2)
SANITIZE := -Og -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
sanitize: build
	rm -rf build/sanitize && mkdir -p build/sanitize
	cp -r setup.py pyproject.toml README.md LICENSE csrc famkern kernels training tests build/sanitize
	rm -f build/sanitize/famkern/*.so
	cd build/sanitize && FAMKERN_ISAS="$(SANITIZED_ISAS)" CXXFLAGS="$(SANITIZE)" LDFLAGS="$(SANITIZE)" \
	    $(abspath $(BIN)/python) setup.py -q build_ext --inplace
	cd build/sanitize && $(CXX) $(SANITIZE) $(NATIVE) -DFAMKERN_WITHOUT_AVX512 tests/native/*.cpp $(KERNELS:%=build/ninja/%.*.o) -o native && ./native $(CASES)
	cd build/sanitize && ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=. \
	    LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	    $(abspath $(BIN)/python) -m pytest -q tests/ops/test_stages.py tests/ops/test_conv.py tests/ops/test_affinity.py tests/ops/test_reduced.py \
	    -k "formulas and 16 or batch or halo or 16_bits or past_the_caches or several or fit_is_refused or strided or \
	        leaves_the_bits or wrong_shapes or paper_s_formula or strides or every_half_precision or read_beyond"

# Everything that needs a GPU, with the Python (PYTHON=...), torch and nvcc that are installed: nothing is fetched. The
# tests are those of the files that have any for a GPU, so that what only other files need may be missing.
GPU_TESTS = $(shell grep -rl 'mark\.gpu' --include='*.py' tests)
# Small ones of every stage: sanitizers take a hundred times longer.
SANITIZED := tests/kernels/test_stages.py tests/kernels/test_affinity.py tests/kernels/test_affinity_cuda.py \
    -k "do_not_meet or torch.float16 and (bands_and_runs or spread or maps_and_gradients)"
SANITIZER = $(shell command -v compute-sanitizer || ls "$${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" 2>/dev/null)
gpu-check: export FAMKERN_GPU := 1
gpu-check: export FAMKERN_CUDA := 1
gpu-check: export FAMKERN_REQUIRE_EXT := 1
gpu-check:
	@$(PYTHON) -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null || \
	    { echo "make gpu-check needs a CUDA device, and a PyTorch that sees it in $(PYTHON)"; exit 1; }
	$(PYTHON) -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	$(PYTHON) -m pytest -m gpu $(GPU_TESTS) $(PYTEST)
	@for tool in memcheck racecheck; do \
	    if test -z "$(SANITIZER)"; then echo "skipped: $$tool, there is no compute-sanitizer"; continue; fi; \
	    if ! $(SANITIZER) --tool $$tool $(PYTHON) -c 'import torch; torch.zeros(1, device="cuda").item()' >/dev/null 2>&1; \
	        then echo "skipped: $$tool, compute-sanitizer does not run on this device"; continue; fi; \
	    echo "compute-sanitizer --tool $$tool"; \
	    PYTORCH_NO_CUDA_MEMORY_CACHING=1 $(SANITIZER) --tool $$tool --error-exitcode 1 \
	        $(PYTHON) -m pytest -q -m gpu $(SANITIZED) || exit 1; \
	done
	$(PYTHON) benchmarks/bench_gpu.py

# A U-shaped student in full speed, with the Python (PYTHON=...) and torch that are installed; GPU_WHEELS, if it is there, is a
# folder with wheels of what is missing. GPU_DATA is made by famkern.training.pack, see docs/training.md. Every call trains
# for MINUTES and leaves a checkpoint in GPU_RUN, from which the next one goes on.
GPU_FOLDER  := build/gpu-train
GPU_DATA    ?= $(GPU_FOLDER)/data.zip
GPU_WHEELS  ?= $(GPU_FOLDER)/wheels
GPU_RUN     ?= $(GPU_FOLDER)/run
GPU_DEVICE  ?= cuda
MINUTES     ?= 8
UNPACKED    := $(GPU_FOLDER)/data
GPU_RECIPE  ?= --u 16,32,64:1,2,4,2,1 --phase 160x16@0.6 --phase 256x8@1 --steps 40000 --lr 2e-3 --loss psnr --precision bf16-mixed \
    --depth $(UNPACKED)/nyu=0.95,reside --depth $(UNPACKED)/train_depth=0.05,reside
GPU_OPTIONS ?= --compile --workers 14 --checkpoint-every 1000
gpu-train:
	@$(PYTHON) -c 'import torch, sys; sys.exit("$(GPU_DEVICE)" == "cuda" and not torch.cuda.is_available())' || \
	    { echo "make gpu-train needs a CUDA device, and a PyTorch that sees it in $(PYTHON)"; exit 1; }
	@test -e $(GPU_DATA) || { echo "$(GPU_DATA) is missing: docs/training.md says how it is made"; exit 1; }
	@! test -d $(GPU_WHEELS) || $(PYTHON) -m pip install -q --no-index --no-deps $(GPU_WHEELS)/*.whl
	$(PYTHON) -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	@test $(UNPACKED) -nt $(GPU_DATA) || { rm -rf $(UNPACKED) && $(PYTHON) -m zipfile -e $(GPU_DATA) $(UNPACKED) && touch $(UNPACKED); }
	$(PYTHON) -m famkern train student -o $(GPU_RUN) $$(test -e $(GPU_RUN)/recipe.json && echo --resume || echo '$(GPU_RECIPE)') \
	    --device $(GPU_DEVICE) --minutes $(MINUTES) $(GPU_OPTIONS)

# Compiled parts are brought up to date by ninja in well under a second where nothing changed. mypy does not know that
# setup.py makes kernels/ and training/ parts of famkern: what it checks is a tree of links in which they are.
build: $(VENV)/.installed
	@$(BIN)/python setup.py -q build_ext --inplace
	@rm -rf build/types && mkdir -p build/types/famkern && cd build/types/famkern && \
	    ln -s ../../../famkern/* ../../../kernels ../../../training .

# The source distribution and the wheel. The wheel is for every Python, and for every Linux that has what it needs.
wheel: $(VENV)/.installed
	rm -rf dist
	FAMKERN_REQUIRE_EXT=1 $(BIN)/python -m build --no-isolation
	$(call repair,dist)
	@ls dist/*

# The wheel in this folder becomes one for the oldest systems that have what it needs.
define repair
PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --only-plat --exclude 'libtorch*.so' --exclude libc10.so -w $(1) $(1)/*-linux_*.whl
rm $(1)/*-linux_*.whl
endef

# That wheel, of what is built here already, in a bare environment with the oldest PyTorch and NumPy that it may meet, and
# there the quick tests of what becomes of a picture. The headers of that PyTorch must do too, for who builds with them.
OLDEST       := build/oldest
OLDEST_TESTS := tests/models tests/ops/test_stages.py tests/ops/test_conv.py tests/ops/test_reduced.py tests/test_dehazer.py tests/test_citizen.py
OLDEST_TORCH  = $$($(OLDEST)/bin/python -c 'import torch; print(torch.__path__[0])')
oldest: build
	rm -rf $(OLDEST)/build $(OLDEST)/dist
	$(BIN)/python setup.py -q build -b $(OLDEST)/build bdist_wheel -d $(OLDEST)/dist
	$(call repair,$(OLDEST)/dist)
	@test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install -q --disable-pip-version-check pytest pytest-xdist $(OLDEST)/dist/*.whl \
	    $$(sed -En 's/^ *"(torch|numpy)>=([0-9.]+)",/\1==\2.*/p' pyproject.toml)
	$(OLDEST)/bin/python -m pip install -q --disable-pip-version-check --no-deps --force-reinstall $(OLDEST)/dist/*.whl
	$(CXX) -std=c++17 -fsyntax-only -Icsrc -isystem $(OLDEST_TORCH)/include \
	    -DTORCH_TARGET_VERSION=$$(sed -n 's/^TORCH_ABI = "\(.*\)".*/\1/p' setup.py) csrc/*.cpp
	ln -sfn ../../tests ../../pyproject.toml $(OLDEST)
	cd $(OLDEST) && OMP_WAIT_POLICY=passive bin/python -m pytest -q -n auto --maxprocesses 4 -m "not slow" $(OLDEST_TESTS)

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
