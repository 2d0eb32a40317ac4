# The two commands of a fresh clone: `make demo` and `make test`. Each first builds what it needs in .venv. `make torture` kills and
# hinders stages and breaks files, for an hour or more; stopped, it goes on where it was.
PYTHON ?= python3.11
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test torture lint clean

demo: $(VENV)/.demo
	egs/prompts/tts/run.sh

test: $(VENV)/.dev # two at a time, each on one thread
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile

torture: $(VENV)/.dev
	$(VENV)/bin/python tools/torture.py --kills 50 --cases 1000 --out build/torture

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo $(VENV)/.dev: $(VENV)/.%: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[$*]'
	touch $@
