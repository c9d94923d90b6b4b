# hello and test are the README's two commands; each sets up what it needs.
# the system's own Python where there is one: other users can read it too
PYTHON ?= $(firstword $(wildcard /usr/bin/python3.11) python3.11)
BIN := .venv/bin

.PHONY: hello test check lint bench lock clean

hello: .venv/installed
	@sh testdata/hello/hello.sh

test: .venv/installed-dev
	@sh tests/run.sh

check: .venv/installed-dev lint
	$(BIN)/pytest -q tests/frontend tests/cache tests/builder

lint: .venv/installed-dev
	$(BIN)/ruff format --check -q builder frontend cache tests bench hatch_build.py
	$(BIN)/ruff check -q builder frontend cache tests bench hatch_build.py
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: .venv/installed
	$(BIN)/python bench/run.py

# Locked sets with hashes, from pyproject.toml; needs uv.
lock:
	uv export -q --no-emit-project --no-header --no-annotate --no-dev -o requirements.txt
	uv export -q --no-emit-project --no-header --no-annotate --all-groups -o requirements-dev.txt
	rm -f uv.lock

SOURCES := hatch_build.py $(shell find builder frontend cache -name '*.c')

.venv/installed: requirements.txt pyproject.toml $(SOURCES)
	@sh tests/setup.sh hello $(PYTHON)

.venv/installed-dev: requirements-dev.txt pyproject.toml $(SOURCES)
	@sh tests/setup.sh test $(PYTHON)

clean:
	rm -rf .venv
