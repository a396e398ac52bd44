# Everything happens in .venv, which `make` fills from the pinned requirements when they change.
# README.md says how to do without make. TORCH_INDEX is where PyTorch comes from: cpu (PyTorch's own
# index), plain (as all packages), an index's address or a directory; empty: as the machine needs it.
.POSIX:
.PHONY: help run test faults bench gpu ui sweep profile lock repository

PYTHON = python3
PORT = 5000
ISA =
INSTALL = .venv/bin/python -m pip install --no-deps --no-build-isolation -e .
TORCH = .venv/bin/python -m scripts.install --index '$(TORCH_INDEX)'
NEW_ENOUGH = $(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: $(PYTHON) is Python %d.%d; 3.11 or newer is needed. Name one: make PYTHON=python3.12 ..." % sys.version_info[:2])'
# The same list whatever the build of torch, which names its CUDA libraries itself.
FREEZE = .venv/bin/python -m pip freeze --all | \
	sed '/^pip==/d; /^nvidia-/d; /^cuda-/d; /^triton==/d; s/^\(torch==[^+]*\)+.*/\1/'

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /make \1: /p' Makefile

run: repository .venv/run ## run the pipeline and print its results; what is up to date is left alone
	@. .venv/bin/activate && { dvc status --quiet || gpt2 validate --brief; } && dvc repro && \
		python -m scripts.summary

test: .venv/test ## check style and types, run the tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	. .venv/bin/activate && python -m pytest

faults: .venv/test ## kill, fill, flip and confuse everything, and see that nothing is lost
	. .venv/bin/activate && python -m pytest -m faults

bench: .venv/test ## measure the speed of everything beside its peers, about 45 minutes (docs/performance.md; ISA=avx2 imitates a smaller processor)
	@. .venv/bin/activate && dvc repro tokenize && python -m benchmarks $(ISA:%=--isa=%)

gpu: .venv/test ## check an NVIDIA GPU against the CPU, and time it beside its peers
	@. .venv/bin/activate && python -m benchmarks.gpu

ui: .venv/run ## show the runs in a browser (PORT=5000, or the next that is free)
	@. .venv/bin/activate && python -m scripts.ui --port '$(PORT)'

sweep: repository .venv/run ## try a grid of parameters (S="finetune.lr=0.001,0.002 finetune.epochs=1,2")
	@. .venv/bin/activate && python -m scripts.sweep $(S)

profile: ## put a profile in place of params.yaml (P=name)
	@test -f 'profiles/$(P).yaml' || { \
		echo "error: no profile '$(P)'. Name one of these: make profile P=..." >&2; \
		ls profiles | sed -n 's/\.yaml$$//p' >&2; exit 1; }
	cp 'profiles/$(P).yaml' params.yaml

lock: ## pin anew what requirements*.in name, from the package index
	rm -rf .venv
	$(PYTHON) -m venv .venv
	@$(TORCH) requirements.in
	.venv/bin/python -m pip install -r requirements.in
	$(FREEZE) > requirements.txt
	.venv/bin/python -m pip install -r requirements-dev.in
	{ echo '-r requirements.txt'; $(FREEZE) | grep -vxFf requirements.txt; } > requirements-dev.txt
	$(INSTALL)
	touch .venv/run .venv/test

repository:
	@$(NEW_ENOUGH)
	@PYTHONPATH=src $(PYTHON) -m gpt2.core.repository

.venv/run: requirements.txt pyproject.toml
	@$(NEW_ENOUGH)
	$(PYTHON) -m venv .venv
	@$(TORCH)
	.venv/bin/python -m pip install -r requirements.txt
	$(INSTALL)
	@touch $@

.venv/test: .venv/run requirements-dev.txt
	.venv/bin/python -m pip install -r requirements-dev.txt
	@touch $@
