# make demo         render the default answers into build/demo and walk the whole path there, up to a checked submission
#                   (TASK= and FRAMEWORK= choose another variant, into build/demo-TASK-FRAMEWORK)
# make test         the tests; make test-fast leaves out the slow ones, make test-all runs the longest too
# make test-gpu     what only a GPU shows, within eight minutes; left out where there is none (TEST_GPU=cpu runs it there)
# make bench        the benchmark tables
# make house        how much of a render a reader meets, and what a batch walks through
# make lint         ruff over this repository (what is rendered is linted and type-checked by the tests)
# make schema       write the JSON schema of experiments after a change of the settings
# make constraints  pin the newest versions that pyproject.toml allows
# make clean        remove what was built; the environment in .venv stays

TASK ?= classification
FRAMEWORK ?= lightning
BASE_PYTHON ?= python3
# Two at once, on one core each: what a file's tests share, such as a trained project, is made once. Files are taken in
# the order of tests/conftest.py.
PARALLEL ?= --numprocesses 2 --dist loadfile --no-loadscope-reorder

PYTHON := .venv/bin/python
READY := .venv/.ready
ifeq ($(TASK)-$(FRAMEWORK),classification-lightning)
DEMO := build/demo
else
DEMO := build/demo-$(TASK)-$(FRAMEWORK)
endif

# Importing torch and its company takes twice as long without bytecode.
unexport PYTHONDONTWRITEBYTECODE
# The wheels of torch are large, and some lines are slow.
export UV_HTTP_TIMEOUT ?= 300

.PHONY: help demo test test-fast test-all test-gpu bench house lint schema constraints clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

demo: $(READY)
	rm -rf $(DEMO)
	.venv/bin/copier copy --quiet --defaults --vcs-ref HEAD \
		-d 'task=$(TASK)' -d 'framework=$(FRAMEWORK)' "$(CURDIR)" $(DEMO)
	cd $(DEMO) && git init --quiet && git add --all && git -c user.name=demo -c user.email=demo@example.com \
		-c commit.gpgsign=false commit --quiet --no-verify -m "Copy the template"
	$(MAKE) --no-print-directory -C $(DEMO) demo PYTHON="$(CURDIR)/$(PYTHON)"

test: $(READY)
	$(PYTHON) -m pytest $(PARALLEL)

test-fast: $(READY)
	$(PYTHON) -m pytest $(PARALLEL) -m "not slow and not full and not gpu"

test-all: $(READY)
	$(PYTHON) -m pytest $(PARALLEL) -m "not gpu"

test-gpu: $(READY)
	$(PYTHON) -m pytest --numprocesses 4 --dist load -m gpu tests/test_gpu.py

bench: $(READY)
	$(PYTHON) -m benchmarks

house: $(READY)
	$(PYTHON) -m benchmarks.house

lint: $(READY)
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check

schema: $(READY)
	mkdir -p build
	$(PYTHON) -c "import json, sys; sys.path.insert(0, 'template/src'); from pipeline.config import json_schema; \
	print(json.dumps(json_schema(), indent=2))" > build/schema.json
	mv build/schema.json template/src/pipeline/experiment.schema.json

constraints: $(READY)
	.venv/bin/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --upgrade --quiet \
		--no-emit-index-url --no-header --no-annotate --output-file constraints.txt

$(READY): pyproject.toml constraints.txt
	@$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; name one: make BASE_PYTHON=python3.12 ..." >&2; exit 2; }
	test -x $(PYTHON) || $(BASE_PYTHON) -m venv .venv
	test -x .venv/bin/uv || $(PYTHON) -m pip install --quiet uv
	.venv/bin/uv pip install --quiet --python $(PYTHON) --constraints constraints.txt --group dev
	touch $@

clean:
	rm -rf build .pytest_cache .ruff_cache .mypy_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
