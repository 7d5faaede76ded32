# Two commands from a bare clone: `make demo` and `make test`. Each makes its own environment in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DEMO ?= demo
.PHONY: demo test lint clean

$(VENV)/demo.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installing aqdask into $(VENV) (a few minutes the first time)"
	$(PIP) torch==$$(sed -n 's/^torch==//p' constraints.txt)
	$(PIP) -e '.[plots]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/demo.stamp
	$(PIP) -e '.[test]'
	@touch $@

demo: $(VENV)/demo.stamp
	$(BIN)/aqdask demo $(DEMO)

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info
