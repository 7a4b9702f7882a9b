# All targets run in the virtual environment .venv, which they create if needed.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RUN = runs/quickstart
DATA = data/synthetic

# Tests wait for processes, for signals and for files, so there is work for one more than the cores.
WORKERS = $$($(BIN)/python -c 'import os; print(min(os.cpu_count() + 1, 4))')

.PHONY: quickstart test test-quick test-compile lint docs clean

quickstart: $(VENV)/installed
	$(BIN)/python -m mspn_jax.synthetic.people --root $(DATA)
	$(BIN)/python train.py --config configs/quickstart.py --workdir $(RUN) --config.data.root=$(DATA)
	$(BIN)/python eval.py --config configs/quickstart.py --checkpoint $(RUN) \
	  --config.data.root=$(DATA) --output $(RUN)/evaluation --mean_pose --pictures 16
	@echo
	@echo "Drawn people with the network's keypoints: $(RUN)/evaluation/pictures.jpg"
	@echo "Its losses: $(BIN)/pip install tensorboard && $(BIN)/tensorboard --logdir $(RUN)"
	@echo "Next, real pictures: docs/coco.md"

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n $(WORKERS)

# What takes seconds, without what is the same for every Python.
test-quick: $(VENV)/installed-test
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) \
	  --ignore tests/test_docs.py --ignore tests/test_structure.py

# Compiles for TPU and GPU. Needs Linux on x86-64, but no such device.
test-compile: $(VENV)/installed-compile
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest tests/test_compile.py -n $(WORKERS)

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy mspn_jax *.py

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "Written: site/index.html. To preview edits: $(BIN)/mkdocs serve"

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mspn_jax needs Python 3.11 or later. Choose one: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

$(VENV)/installed-compile: $(VENV)/installed-test
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[compile]'
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) $(RUN) $(DATA)
