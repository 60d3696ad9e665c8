# What a change passes before it is merged. Each target runs in the environment that is active.
.PHONY: install test-fast test test-distributed test-nightly coverage lint docs

PYTEST = OMP_NUM_THREADS=1 python -m pytest

install: ## the package with its test tools, and the hooks of git
	pip install -e ".[test,docs]" && pre-commit install

test-fast: ## a few minutes: without the tests marked slow (pages, recipes, installations, killed processes)
	$(PYTEST) -m "not slow"

test: ## all that CI runs
	$(PYTEST)

test-distributed: ## tests that start several processes
	OMP_NUM_THREADS=1 python -m pytest $$(grep -rlE "testing.processes|gloo_training|accelerate.*launch" tests --include 'test_*.py')

test-nightly: ## minutes each: kills, long walks
	OMP_NUM_THREADS=1 python -m pytest -m nightly

coverage: ## all that CI runs, and the lines that no test reaches
	$(PYTEST) --cov=mmvicreg --cov-report=term:skip-covered

lint: ## format, lint and types
	ruff format . && ruff check --fix . && mypy

docs: ## the site, into build/site; a broken link is an error
	mkdocs build --strict --site-dir build/site
