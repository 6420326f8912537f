# make demo: set up and run the main job on the embedded data set.   make test: set up and run the tests.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lint

demo: $(STAMP)
	$(BIN)/python main.py demo

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .

# The one install step of both. Plain pip, everything in one call: torch and torchvision are a pair, and a second call could bring a second torch.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q -e '.[dev]' -c constraints.txt
	touch $(STAMP)
