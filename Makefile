# All targets use .venv, which `make` installs from the pinned requirements when they change.
# README.md has the commands without make. TORCH_INDEX selects where PyTorch comes from: cpu
# (PyTorch's own index), plain (pip's default index), a URL or a directory; empty: by the machine.
.POSIX:
.PHONY: help run test faults bench gpu ui sweep profile lock repository

PYTHON = python3
PORT = 5000
ISA =
INSTALL = .venv/bin/python -m pip install --no-deps --no-build-isolation -e .
TORCH = .venv/bin/python -m scripts.install --index '$(TORCH_INDEX)'
NEW_ENOUGH = $(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: $(PYTHON) is Python %d.%d; 3.11 or newer is needed. Choose one: make PYTHON=python3.12 ..." % sys.version_info[:2])'
# Drops CUDA libraries, which depend on the build of torch: every build gives the same list.
FREEZE = .venv/bin/python -m pip freeze --all | \
	sed '/^pip==/d; /^nvidia-/d; /^cuda-/d; /^triton==/d; s/^\(torch==[^+]*\)+.*/\1/'

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /make \1: /p' Makefile

run: repository .venv/run ## run the stages that are not up to date, and print the results
	@. .venv/bin/activate && { dvc status --quiet || gpt2 validate --brief; } && dvc repro && \
		python -m scripts.summary

test: .venv/test ## check style and types, run the tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	. .venv/bin/activate && python -m pytest --numprocesses logical --dist loadgroup

faults: .venv/test ## run the fault tests: killed processes, full disks, damaged files, bad input
	. .venv/bin/activate && python -m pytest -m faults --numprocesses logical --dist loadgroup

bench: .venv/test ## run the benchmarks against other libraries, about 45 minutes (docs/performance.md; ISA=avx2 imitates an older CPU)
	@. .venv/bin/activate && dvc repro tokenize && python -m benchmarks $(ISA:%=--isa=%)

gpu: .venv/test ## check an NVIDIA GPU against the CPU, and run the benchmarks on it
	@. .venv/bin/activate && python -m benchmarks.gpu

ui: .venv/run ## show the runs in a browser (PORT=5000, or the next free port)
	@. .venv/bin/activate && python -m scripts.ui --port '$(PORT)'

sweep: repository .venv/run ## run a grid of experiments (S="finetune.lr=0.001,0.002 finetune.epochs=1,2")
	@. .venv/bin/activate && python -m scripts.sweep $(S)

profile: ## replace params.yaml with a profile (P=name)
	@test -f 'profiles/$(P).yaml' || { \
		echo "error: no profile '$(P)'. Choose one of these: make profile P=..." >&2; \
		ls profiles | sed -n 's/\.yaml$$//p' >&2; exit 1; }
	cp 'profiles/$(P).yaml' params.yaml

lock: ## pin the current versions of the packages in requirements*.in
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
