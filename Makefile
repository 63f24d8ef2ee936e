# Every stage of CI is a target here and runs the same on a laptop. `make` alone lists them.

PYTHON ?= python3
VERSION := $(shell '$(PYTHON)' -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)

RUN := .venv
DEV := .venv-dev
AUDIT := .venv-audit
MUTANTS := .venv-mutants
WITH = PYTHON=$(DEV)/bin/python .ci/with
PYTEST = $(DEV)/bin/python -m pytest

PYTHONS := 3.11 3.13
# What has been tested already; .ci/run names the version `make test` has just covered.
TESTED :=
STAGES = quickstart lint types audit $(addprefix test-,$(filter-out $(TESTED),$(PYTHONS))) stores bench-check chaos-check container sam

.DEFAULT_GOAL := help
.PHONY: help run test zip build-AgentFunction quickstart lint types audit stores container sam ci stages web-adapter bench bench-check chaos chaos-check mutants lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

run: $(RUN)/ready-$(VERSION) ## Serve on http://127.0.0.1:8000: echo agent, SQLite sessions, no account
	@port=$$($(RUN)/bin/python -c 'from app import config; print(config.load().port)' 2>/dev/null || echo 8000); \
	echo "Docs:  http://127.0.0.1:$$port/docs"; \
	echo "Try:   curl http://127.0.0.1:$$port/chat -H 'Content-Type: application/json' -d '{\"message\": \"hello\"}'"; \
	exec $(RUN)/bin/python -m app

# Its own tools are demanded by `with`; what the later stages test may be skipped here, in a line each.
test: $(DEV)/ready-$(VERSION) ## Test all that needs no Docker or Java, with branch coverage
	@$(WITH) rie dynoxide aimock -- env -u REQUIRE_ALL $(PYTEST) $(COVERAGE)

# Coverage costs a third of the time, and is the same on another Python.
COVERAGE = $(if $(TESTED),,--cov)

test-%: # The same on another Python: make test-3.13
	@$(MAKE) --no-print-directory test DEV=.venv-dev-$* PYTHON="$$(.ci/python $*)"

quickstart: # What the README promises of `make run`
	@.ci/quickstart

lint: $(DEV)/ready-$(VERSION) ## Rules and formatting
	@$(DEV)/bin/ruff check
	@$(DEV)/bin/ruff format --check

types: $(DEV)/ready-$(VERSION) ## mypy, strict
	@$(DEV)/bin/mypy

audit: $(AUDIT)/ready-$(VERSION) ## Look for insecure patterns and known vulnerabilities, and write build/sbom.json
	@.ci/audit $(AUDIT)/bin

stores: $(DEV)/ready-$(VERSION) ## The sessions' conformance suite on real DynamoDB-compatible servers (Java)
	@$(WITH) dynoxide dynamodb-local -- $(PYTEST) tests/conformance

container: $(DEV)/ready-$(VERSION) ## Build the image and use it as Cloud Run, Kubernetes and Lambda do (Docker)
	@$(WITH) engine rie dynoxide -- $(PYTEST) tests/container

sam: $(DEV)/ready-$(VERSION) ## Validate, build and invoke the SAM template (Docker)
	@$(WITH) engine sam dynoxide -- $(PYTEST) tests/sam

# No stage of CI: it needs a Rust toolchain.
web-adapter: $(DEV)/ready-$(VERSION) ## Test behind AWS's Lambda Web Adapter, built here once (cargo, minutes)
	@$(WITH) web-adapter -- $(PYTEST) tests/lambda_runtime/test_web_adapter.py

bench: $(DEV)/ready-$(VERSION) ## Print the table of ratios
	@$(WITH) dynoxide engine rie -- $(DEV)/bin/python -m benchmarks

bench-check: $(DEV)/ready-$(VERSION) # A quick pass: every count exactly, every ratio within a quarter of its bar
	@$(WITH) dynoxide -- $(DEV)/bin/python -m benchmarks --quick --check

chaos: $(DEV)/ready-$(VERSION) ## Hold the guarantees while everything fails, for a quarter of an hour (docs/guarantees.md)
	@$(WITH) dynoxide haproxy -- $(DEV)/bin/python -m tests.chaos --full

chaos-check: $(DEV)/ready-$(VERSION) # The same for three minutes
	@$(WITH) dynoxide haproxy -- $(DEV)/bin/python -m tests.chaos

# No stage of CI: it takes an hour and a half.
mutants: $(MUTANTS)/ready-$(VERSION) ## Break the code in every place, one at a time, and see whether a test notices (docs/mutants.md)
	@$(MUTANTS)/bin/python -m tests.mutation $(GROUPS)

ci: ## All of it; a tool that is absent is an error
	@for stage in $(STAGES); do REQUIRE_ALL=1 .ci/stage $$stage || exit 1; done

stages: # What CI consists of
	@echo $(STAGES)

zip: ## Package the service for Lambda as build/agent-service.zip (ARCH=x86_64 for other machines)
	@rm -rf build && mkdir -p build/package
	@$(MAKE) --no-print-directory build-AgentFunction ARTIFACTS_DIR=build/package
	@cd build/package && '$(PYTHON)' -m zipfile --create ../agent-service.zip *
	@ls -l build/agent-service.zip

# What a zip holds: the service, and every dependency as a wheel for Lambda's machine, whatever machine this is.
# `sam build` calls it, too. Bytecode is of use only from the Python that will run it; without it a cold start doubles.
ARCH ?= arm64
FOR ?= 3.13
build-AgentFunction:
	@'$(PYTHON)' -m pip install --quiet --disable-pip-version-check --no-compile --target '$(ARTIFACTS_DIR)' \
		--platform manylinux2014_$(ARCH:arm64=aarch64) --platform manylinux_2_28_$(ARCH:arm64=aarch64) \
		--implementation cp --python-version $(FOR) --only-binary :all: --require-hashes --no-deps -r requirements.txt
	@cp -R handler.py app '$(ARTIFACTS_DIR)'
	@find '$(ARTIFACTS_DIR)' -name __pycache__ -prune -exec rm -rf {} +
	@if python=$$(.ci/python $(FOR)); then \
		$$python -m compileall -q --invalidation-mode unchecked-hash '$(ARTIFACTS_DIR)'; \
	else echo "without Python $(FOR) the package has no bytecode, and cold starts take longer" >&2; fi
	@chmod -R a+rX '$(ARTIFACTS_DIR)'

lock: $(DEV)/ready-$(VERSION) ## Pin requirements*.txt from pyproject.toml (FLAGS=--upgrade for newer ones)
	$(COMPILE) pyproject.toml --output-file requirements.txt
	$(COMPILE) pyproject.toml --output-file requirements-dev.txt --group dev --constraint requirements.txt
	$(COMPILE) --output-file requirements-audit.txt --group audit
	$(COMPILE) --output-file requirements-mutants.txt --group mutants --constraint requirements-dev.txt

COMPILE = $(DEV)/bin/uv pip compile $(FLAGS) --quiet --universal --python-version 3.11 \
	--generate-hashes --custom-compile-command "make lock"

clean: ## Remove environments, fetched tools and caches
	rm -rf .venv* .cache .aws-sam build .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# The marker's name holds the version, so that another PYTHON makes the environment anew.
$(RUN)/ready-%: requirements.txt
	$(environment)
$(DEV)/ready-%: requirements-dev.txt
	$(environment)
$(AUDIT)/ready-%: requirements-audit.txt
	$(environment)
$(MUTANTS)/ready-%: requirements-dev.txt requirements-mutants.txt
	$(environment)
$(RUN)/ready- $(DEV)/ready- $(AUDIT)/ready- $(MUTANTS)/ready-:
	@echo "$(PYTHON) does not run; name a Python 3.11 or newer: make PYTHON=..." >&2; exit 1

# The lists are complete, and pip before 23.3 would still look for the newest of what is named with an extra.
define environment
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "Python 3.11 or newer is needed and $(PYTHON) is $(VERSION); name another: make PYTHON=..." >&2; exit 1; }
@rm -rf $(@D) && $(PYTHON) -m venv $(@D)
@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes --no-deps \
	$(addprefix -r ,$^)
@$(@D)/bin/python -m pip check --quiet --disable-pip-version-check >/dev/null
@touch $@
endef
