# Everything needed is set up on first use, from Python 3.11-3.13 and the package registry alone.
PYTHON ?= python3
UV_FLAGS ?=
ARGS ?=
UV := .boot/bin/uv
BIN := .venv/bin
READY := .venv/.ready
TASKS := t2i caption depth sr any
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

GPU_BUNDLE := pydantic pydantic-core annotated-types typing-inspection beartype

.PHONY: demo test check bench gpu gpu-bundle constraints clean

demo: export OMP_NUM_THREADS := 1
demo: $(READY)  ## evaluate the shipped models of all five tasks; prints the tables and makes one page
	for task in $(TASKS); do $(BIN)/crossflow-eval $$task --limit 250 --out runs/demo/$$task > /dev/null || exit; done
	$(BIN)/crossflow-eval report $(TASKS:%=runs/demo/%) --format html --out runs/demo/report.html > /dev/null
	$(BIN)/crossflow-eval report $(TASKS:%=runs/demo/%)
	@echo "Page: runs/demo/report.html"

test: export OMP_NUM_THREADS := 1
test: $(READY)  ## the default tests: no network, no GPU
	$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

check: $(READY)  ## lint, format, types, import directions
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

bench: $(READY)  ## ours against each peer, in one run
	$(BIN)/python -m benchmarks

gpu: $(READY)  ## every number that needs a GPU, four minutes a call
	$(BIN)/python -m benchmarks.gpu --minutes 4 $(ARGS)

gpu-bundle: $(UV)  ## wheels for `benchmarks.gpu` on a machine with PyTorch on Python 3.12 that reaches no registry
	rm -rf gpu-bundle
	.boot/bin/python -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
		--implementation cp --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
		-c constraints.txt -d gpu-bundle $(GPU_BUNDLE)
	@git ls-files -z ':!crossflow/weights/scenes-any.safetensors' | xargs -0 cat gpu-bundle/*.whl | wc -c | awk '{ printf "%.1f MiB with the tree\n", $$1 / 2^20; exit $$1 > 2^26 }'

constraints: $(UV)  ## pin every version again after a change of dependencies in pyproject.toml
	$(UV) lock -q
	$(UV) export -q --no-hashes --no-annotate --no-header --no-emit-project -o constraints.txt.tmp
	@if grep -n '://' constraints.txt.tmp; then echo "constraints.txt must hold versions, not addresses" >&2; exit 1; fi
	mv constraints.txt.tmp constraints.txt

clean:  ## remove the environment and all caches; runs/ stays
	rm -rf .boot .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist

$(UV):
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, 13) or sys.exit("This is Python " + sys.version.split()[0] + " and the project needs 3.11, 3.12 or 3.13: run make PYTHON=python3.12")'
	$(PYTHON) -m venv .boot
	.boot/bin/python -m pip install -q --disable-pip-version-check uv==0.13.8

$(READY): pyproject.toml constraints.txt | $(UV)
	$(UV) venv -q --allow-existing --python .boot/bin/python .venv
	$(UV) pip install -q --python .venv -c constraints.txt -e . --group dev $(UV_FLAGS)
	@touch $@
