# Thin: scripts/environment.py makes .venv, everything else runs inside it.
# SET=start|all  TORCH=default|cpu  PORT=8888  ARGS="..."  PYTHON=/path/to/python3.11
.DEFAULT_GOAL := help
.PHONY: help lab test env repair lock lint clean
SHELL := /bin/sh
BIN := .venv/bin

# The first Python that really runs (a pyenv shim may exist and fail) and is 3.11 or 3.12; 3.11
# first, the version that the committed notebooks were executed with. A chosen PYTHON is not
# passed over.
define with_python
for p in $(if $(PYTHON),'$(PYTHON)',$(BIN)/python python3.11 python3.12 python3 python); do \
  if "$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; \
  then exec "$$p" scripts/environment.py $(1); fi; done; \
echo "make: no Python 3.11 or 3.12 runs here: install one (Debian and Ubuntu: apt install python3 python3-venv; macOS: brew install python@3.12), or name it: make $@ PYTHON=/path/to/python3.12" >&2; \
exit 3
endef

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2} \
	  END{print "Example:  make lab SET=start    a quick look: chapters 00 and 03, about 1.1 GB"}' Makefile

lab: env  ## environment, then JupyterLab on chapter 00  [SET=start|all TORCH=cpu PORT=8888]
	@exec $(BIN)/aiinfra lab $(if $(PORT),--port '$(PORT)')

test: env  ## environment, then everything that this machine can test  [ARGS="..."]
	@test -f tests/run.py || { echo "A release has no tests; aiinfra check NN checks your lab." >&2; exit 2; }
	@exec $(BIN)/python tests/run.py $(ARGS)

env:  ## only the environment, in .venv
	@$(call with_python,env --set '$(SET)' --torch '$(TORCH)')

repair:  ## make .venv anew from uv's cache
	@$(call with_python,env --again --set '$(SET)' --torch '$(TORCH)')

lock:  ## resolve pyproject.toml into the three pin files  [UPGRADE=1]
	@$(call with_python,lock $(if $(UPGRADE),--upgrade))

lint: env  ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict aiinfra_lab scripts/environment.py
	$(BIN)/lint-imports

clean:  ## remove the tools' caches; .venv stays
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
