# From a fresh clone: `make demo`, `make test`. Everything goes into .venv; nothing outside is touched.
# `make help` lists the targets. Choose the Python with `make PYTHON=python3.12 ...` (3.10 to 3.14).

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Processes that run tests side by side.
JOBS   ?= 2
PIP    := $(BIN)/python -m pip --disable-pip-version-check

# A change of these needs a build.
SOURCES := setup.py CMakeLists.txt pyproject.toml constraints.txt $(shell find csrc -type f 2>/dev/null)

.PHONY: help setup demo test test-slow study-smoke docs coverage simt test-simt test-arm cuda-gates mutation gpu-check torture wheel test-wheel test-offline lint format bench clean distclean
.DELETE_ON_ERROR:

help:
	@echo "make demo     set up, build, then collect, train, evaluate and report (runs/demo)"
	@echo "make test     set up, build, then run the test suite"
	@echo "make test-slow   the tests that take minutes;  make coverage   lines and branches reached"
	@echo "make lint     ruff and clang-format, checking only;  make format changes the files"
	@echo "make test-simt   the tests of the CUDA executors on their emulator alone"
	@echo "make test-arm    the kernels and exported policies on 64-bit ARM, emulated"
	@echo "make cuda-gates  compile the CUDA executors by nvcc and check the binary; UPDATE=1 writes"
	@echo "                 csrc/cuda/resources.txt.   make gpu-check: everything, on a machine with a GPU"
	@echo "make docs     the documentation as a site in build/docs"
	@echo "make bench    time everything beside PyTorch and the peers installed (pip install -e '.[peers]')"
	@echo "make torture  kill, damage, starve and race it, up to an hour;  PARTS=kill SCALE=0.1"
	@echo "make wheel    the sdist and a wheel in dist/;  make test-wheel, test-offline: their tests"
	@echo "make clean    remove build files;  make distclean removes $(VENV) too"

setup: $(VENV)/.built

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 14) else \
	  "Python 3.10 to 3.14 is needed, $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." % v)'
	@command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || \
	  { echo "a C++ compiler is needed (gcc 11 or clang 14, or newer)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "no virtual environment could be made; on Debian: apt install python3-venv" >&2; exit 1; }
	@touch $@

# torch first and by its pin, so that nothing later chooses another build of it.
$(VENV)/.dependencies: $(VENV)/.created constraints.txt
	$(PIP) install --quiet -c constraints.txt torch
	$(PIP) install --quiet -c constraints.txt numpy setuptools cmake ninja pybind11
	@touch $@

# The package is installed in place (editable), so only the extension needs building after a change.
$(VENV)/.built: $(VENV)/.dependencies $(SOURCES)
	@export PATH="$(abspath $(BIN)):$$PATH" DOM2_FAST_REQUIRE_EXTENSION=1; \
	for file in pyproject.toml setup.py constraints.txt; do \
	  test $(VENV)/.installed -nt $$file || rm -f $(VENV)/.installed; done; \
	if test -e $(VENV)/.installed; then \
	  echo "building the extension"; \
	  $(BIN)/python setup.py --quiet build_ext --inplace; \
	else \
	  echo "building and installing dom2-fast with its dependencies"; \
	  $(PIP) install --quiet --no-build-isolation -c constraints.txt -e '.[test]' && \
	    touch $(VENV)/.installed; \
	fi
	@touch $@

$(VENV)/.tools: $(VENV)/.created constraints.txt
	$(PIP) install --quiet -c constraints.txt ruff clang-format
	@touch $@

demo: $(VENV)/.built
	$(BIN)/python -m dom2_fast.cli.demo

# A file's tests stay together: some build what others of the same file use.
test: $(VENV)/.built simt
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# What takes a minute or more: the changes of CONTRIBUTING.md that need a compiler.
test-slow: $(VENV)/.built
	$(BIN)/python -m pytest -m slow

# A small study from its file to its table; a minute or two.
study-smoke: $(VENV)/.built
	rm -rf build/study-smoke
	$(BIN)/python -m dom2_fast.cli.main study run studies/smoke.yaml --out build/study-smoke --quiet
	$(BIN)/python -m dom2_fast.cli.main study status build/study-smoke
	$(BIN)/python -m dom2_fast.cli.main study report build/study-smoke

$(VENV)/.docs-tools: $(VENV)/.built
	$(PIP) install --quiet -c constraints.txt sphinx myst-parser furo sphinx-copybutton
	@touch $@

# The pages of docs/ and the API reference as a site, build/docs/index.html; a warning is an error.
docs: $(VENV)/.docs-tools
	$(BIN)/python -m sphinx -q -W --keep-going -b html -c docs . build/docs
	@echo "open build/docs/index.html"

# Lines and branches that the tests reach, in Python and in the kernels; half an hour.
coverage: $(VENV)/.built simt
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tools/coverage_report.py

# The CUDA executors emulated on the CPU, for tests; needs a C++ compiler and no CUDA.
simt: build/simt/dom2_simt.so

build/simt/dom2_simt.so: $(VENV)/.dependencies $(SOURCES)
	@echo "building the CUDA executors on their emulator"
	@export PATH="$(abspath $(BIN)):$$PATH"; \
	torch=$$($(BIN)/python -c 'import torch; print(*torch.__path__)') && \
	cmake -S csrc/testing/simt -B build/simt -G Ninja --log-level=WARNING -UTORCH_CPU \
	  -DTORCH_INCLUDE="$$torch/include" -DTORCH_LIB="$$torch/lib" && \
	cmake --build build/simt -- --quiet
	@touch $@

# The torch-free core on 64-bit ARM, cross-compiled and emulated, and by clang. Says what is missing.
test-arm: $(VENV)/.built
	$(BIN)/python -m pytest -m slow -rs python_tests/cpp

test-simt: $(VENV)/.built simt
	$(BIN)/python -m pytest python_tests/ops python_tests/simt -k simt

$(VENV)/.cuda-tools: $(VENV)/.created constraints.txt
	$(PIP) install --quiet -c constraints.txt nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm
	@touch $@

# What can be checked of the CUDA executors with nvcc and without a GPU.
cuda-gates: $(VENV)/.built
	@if command -v "$${CUDACXX:-nvcc}" >/dev/null; then $(MAKE) --no-print-directory $(VENV)/.cuda-tools; fi
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tools/cuda_gates.py $(if $(UPDATE),--update)

# Breaks the CUDA kernels, one place at a time: do the emulated tests notice? Takes half an hour.
mutation: $(VENV)/.built
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tools/mutate_cuda.py $(if $(ONLY),--only $(ONLY))

# Builds with CUDA, tests, compute-sanitizer and benchmarks, on a machine with a GPU.
gpu-check: $(VENV)/.built
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tools/gpu_check.py

# Kills, damages, starves and races it: what may not break. Up to an hour; docs/reliability.md.
#   make torture PARTS="kill files" SCALE=0.1
torture: $(VENV)/.built
	PYTHONPATH=tools PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m torture $(PARTS) --scale $(or $(SCALE),1)

# An sdist and the wheel of $(PYTHON) in dist/; its tests where no checkout is (TORCH=2.10.0 chooses
# the torch), and where there are neither a network nor a compiler.
wheel:
	$(PYTHON) tools/wheels.py build --python $(PYTHON) $(if $(TORCH),--torch $(TORCH))

test-wheel:
	$(PYTHON) tools/wheels.py test dist/*.whl --python $(PYTHON) $(if $(TORCH),--torch $(TORCH))

test-offline:
	$(PYTHON) tools/wheels.py house dist/*.whl --python $(PYTHON)
	$(PYTHON) tools/wheels.py offline dist/*.whl --python $(PYTHON)

lint: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find csrc examples python_tests -name '*.h' -o -name '*.inl' -o -name '*.cpp' -o -name '*.cu' | \
	  xargs $(BIN)/clang-format --dry-run -Werror

format: $(VENV)/.tools
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc examples python_tests -name '*.h' -o -name '*.inl' -o -name '*.cpp' -o -name '*.cu' | xargs $(BIN)/clang-format -i

bench: $(VENV)/.built
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf build dist *.egg-info dom2_fast/*.so .pytest_cache .ruff_cache .benchmarks
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	rm -f $(VENV)/.built $(VENV)/.installed

distclean: clean
	rm -rf $(VENV)
