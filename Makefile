# Two commands from a bare clone: `make demo` and `make test`. Each makes its own environment in .venv.
# `make docs` builds the pages under docs/.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DEMO ?= demo
.PHONY: demo test docs lint clean

$(VENV)/demo.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installing aqdask into $(VENV) (a few minutes the first time)"
	$(PIP) torch==$$(sed -n 's/^torch==//p' constraints.txt)
	$(PIP) -e '.[plots]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/demo.stamp
	$(PIP) -e '.[test]'
	@touch $@

$(VENV)/docs.stamp: $(VENV)/demo.stamp
	$(PIP) -e '.[docs]'
	@touch $@

demo: $(VENV)/demo.stamp
	$(BIN)/aqdask demo $(DEMO)

# Tests that start Dask workers or a browser run one after the other, the rest on all cores with one thread each,
# in the order of tests/conftest.py, which puts long files first. Only tests of power loss, and those on workers, wait
# until files are on the disk.
APART ?= cluster or slurm or browser or programs
test: $(VENV)/test.stamp
	DASK_AQDASK__FSYNC=off OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not cluster and not slurm and not browser and not programs"
	$(BIN)/python -m pytest -m "$(APART)"

# Executes the tutorials. Warnings are errors; all are shown before it fails. Needs no network once it is installed.
docs: $(VENV)/docs.stamp
	$(BIN)/python -m sphinx -j auto -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build docs/_build docs/results *.egg-info
