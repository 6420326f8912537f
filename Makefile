# make demo: set up and run the main job on the embedded data set.
# make test: set up and run the tests.      make slow: the tests that take minutes.
# make lint: style, names and types.      make docs: the site, into site/.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test slow lint docs notebooks bench

demo: $(STAMP)
	$(BIN)/python main.py demo

# One process a core, one thread each: 3:39 instead of 6:35 on two cores.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

slow: $(STAMP)
	$(BIN)/python -m pytest -m slow --timeout=1200

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

docs: .venv/.docs
	DISABLE_MKDOCS_2_WARNING=true NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html"

# After a change of a notebook, or of the shipped model: run them, store what they show.
notebooks: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python notebooks/store.py

.venv/.docs: $(STAMP)
	$(BIN)/pip install --disable-pip-version-check -q -e '.[docs]' -c constraints.txt
	touch $@

bench: $(STAMP)
	$(BIN)/python benchmarks/ratios.py

# The one install step of all. Plain pip, everything in one call: torch and torchvision are a
# pair, and a second call could bring a second torch.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q -e '.[dev]' -c constraints.txt
	touch $(STAMP)
