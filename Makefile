# Every command of the project. Each sets up what it needs; a second run installs nothing twice.
#   make demo [ONCE=1] [IMAGES=dir]   start everything on this machine and pre-label
#   make demo-loop [ONCE=1] [IMAGES=dir]   correct, retrain, judge, promote and draw anew, by scripted annotators
#   make test [ONLY=path]             every test, real Redis, Label Studio and browser included
#   make bench [ONLY=scaling]         measure, beside the results that were kept last, in benchmarks/results
#   make lint                         format, rules, types, walls
#   make audit [MUST=1]              ask whether a pin has a known vulnerability; MUST=1 fails where nobody can be asked
#   make site                         the documentation, into site/; refuses links that lead nowhere
#   make pictures [ONLY=demo]         the documentation's pictures, from the demos in a browser; half an hour
#   make train-tiny [INSTANCES=dir]   train the shipped weights again, into OUT=run-tiny; hours, and resumable
#   make setup                        only the environments
# VENV=path puts the environment elsewhere; Label Studio's and the torch-free one stand beside it.
PYTHON ?= python3
OUT ?= run-tiny
VENV ?= .venv
LABEL_STUDIO_VENV = $(VENV)-label-studio
BACKEND_VENV = $(VENV)-backend
PIP = -m pip --disable-pip-version-check install --quiet --progress-bar off
PINS = -c requirements/constraints.txt

export LABEL_STUDIO_COMMAND = $(abspath $(LABEL_STUDIO_VENV)/bin/label-studio)
export BACKEND_PYTHON = $(abspath $(BACKEND_VENV)/bin/python)

.DEFAULT_GOAL = help
.PHONY: audit help setup demo demo-loop test bench lint site pictures train-tiny browser

help:
	@sed -n '1,/^$$/s/^#   //p' Makefile

setup: $(VENV)/.ready $(LABEL_STUDIO_VENV)/.ready

demo: setup
	$(VENV)/bin/rsrefseg-backend demo $(if $(ONCE),--once) $(if $(IMAGES),--images '$(IMAGES)')

demo-loop: setup
	$(VENV)/bin/rsrefseg-backend demo-loop $(if $(ONCE),--once) $(if $(IMAGES),--images '$(IMAGES)')

test: setup $(BACKEND_VENV)/.ready browser
ifdef ONLY
	$(VENV)/bin/python -m pytest $(ONLY)
else
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 tests/unit tests/contracts
	$(VENV)/bin/python -m pytest --numprocesses 2 --durations 15 tests/with_label_studio tests/with_redis
endif

bench: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/run.py $(ONLY)

lint: $(VENV)/.ready
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

site: $(VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --quiet

pictures: setup browser
	PYTHONPATH=. $(VENV)/bin/python docs/pictures.py $(ONLY)

audit: $(VENV)/.ready
	$(VENV)/bin/python .ci/audit.py $(if $(MUST),--must)

train-tiny: $(VENV)/.ready
	$(VENV)/bin/rsrefseg train-tiny --out '$(OUT)' $(if $(INSTANCES),--instances '$(INSTANCES)') --resume
	$(VENV)/bin/rsrefseg calibrate '$(OUT)/checkpoint' --dataset scenes

# Installs Debian's chromium and promtool where nobody has to be asked; elsewhere the tests say what is missing and skip.
define debian
	@command -v $(1) >/dev/null || { [ -n "$(CI)" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(2); } || \
		echo '$(1) is not installed: the tests that need it will skip (apt install $(2))'
endef

browser:
	$(call debian,chromium,chromium)
	$(call debian,promtool,prometheus)

define environment
	@echo 'setting up $(1) (once) ...'
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or newer is needed; PYTHON=path names another one'; exit 1; }
	@$(PYTHON) -m venv $(1) || { echo 'the venv module is missing: apt install python3-venv'; exit 1; }
endef

$(VENV)/.ready: pyproject.toml requirements/constraints.txt
	$(call environment,$(VENV))
	$(VENV)/bin/python $(PIP) $(PINS) -e '.[worker,dev]'
	@touch $@

$(BACKEND_VENV)/.ready: pyproject.toml requirements/constraints.txt
	$(call environment,$(BACKEND_VENV))
	$(BACKEND_VENV)/bin/python $(PIP) $(PINS) -e .
	@touch $@

# Label Studio pins older redis, rq and numpy, so it lives apart. Its database is laid out once, here.
$(LABEL_STUDIO_VENV)/.ready: requirements/label-studio.txt
	$(call environment,$(LABEL_STUDIO_VENV))
	$(LABEL_STUDIO_VENV)/bin/python $(PIP) -r requirements/label-studio.txt
	@touch $@
