# Everything a person types. `make` alone lists the targets.
PYTHON ?= python3
TORCH  ?= torch==2.13.0
# Pictures of 320x240, and of 640x480 for the models called small.
DATA    ?= $(or $(EDGESEG_DATA),$(HOME)/.cache/edgeseg/tabletop)
DATA640 ?= $(DATA)-640
data_of  = $(if $(filter %-small,$(1)),$(DATA640),$(DATA))
# All bundles that ship. `make eval MODELS=knet-nano` is for one; so is `make eval-knet-nano`.
MODELS  ?= $(patsubst edgeseg/bundles/%/bundle.json,%,$(wildcard edgeseg/bundles/*/bundle.json))
RUNS    ?= runs
COLCON ?= --symlink-install --cmake-args -DBUILD_TESTING=OFF
BIN    := .venv/bin
PIP    := -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup trt-env demo test check lint gpu ros ros-env format bench bench-ros eval \
        domain int8 own-classes docs data clean osmesa

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready ## make .venv with everything a developer needs

# torch first: it is the one wheel that other packages would otherwise choose for us.
.venv/.ready: setup.py pyproject.toml tools/make_venv
	@echo "making .venv with torch and the developer's tools (once, some minutes)"
	PYTHON=$(PYTHON) tools/make_venv .venv
	$(BIN)/python $(PIP) $(TORCH)
	$(BIN)/python $(PIP) -e '.[dev,train,export]'
	touch $@

.venv/.trt: .venv/.ready tools/make_trt
	@tools/make_trt
	@touch $@

trt-env: .venv/.trt ## add TensorRT for RTX to .venv, which builds engines without a GPU

.venv-demo/.ready: setup.py tools/make_venv
	@echo "making .venv-demo with the base package (once, about 400 MB)"
	PYTHON=$(PYTHON) tools/make_venv .venv-demo
	.venv-demo/bin/python $(PIP) -e .
	touch $@

demo: .venv-demo/.ready ## segment the packaged clip: base install only, no torch
	.venv-demo/bin/edgeseg demo --out out/demo

test: setup osmesa trt-env ## set up what the tests need and run all but those that need ROS
	$(BIN)/python -m pytest -m "not ros" $(PYTEST)

check: lint ## linters and the fast tests, under a minute
	$(BIN)/python -m pytest -q -m "not slow and not ros" $(PYTEST)

lint: setup ## ruff, mypy, import rules, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell

.venv-ros/.ready: setup.py tools/make_ros tools/make_venv
	@PYTHON=$(PYTHON) tools/make_ros
	@touch $@

# colcon stops at its links to files that are gone from the sources.
ros-env: .venv-ros/.ready ## make .venv-ros with ROS 2 from PyPI, and build ros2_ws
	@mkdir -p ros2_ws/build && find ros2_ws/build -xtype l -delete
	@. .venv-ros/env.sh && cd ros2_ws && colcon --log-level error build $(COLCON)

gpu: setup trt-env ## run the tests that need an NVIDIA GPU, then measure every engine on it
	$(BIN)/python $(PIP) pycuda || echo "no PyCUDA here: its tests are left out"
	EDGESEG_REQUIRE=$${EDGESEG_REQUIRE:-cuda} $(BIN)/python -m pytest -m gpu $(PYTEST)
	mkdir -p out && $(BIN)/edgeseg bench fastinst-nano --choose --json out/gpu.json

ros: ros-env ## build ros2_ws and run its tests over real DDS: no torch
	. .venv-ros/env.sh && EDGESEG_REQUIRE=$${EDGESEG_REQUIRE:+$$EDGESEG_REQUIRE,}ros \
	  python -m pytest tests/ros $(PYTEST)

format: setup ## let ruff rewrite what it can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: setup ## measure speed and memory of all MODELS in one run into docs/results/bench.json
	$(BIN)/edgeseg bench $(MODELS) --frames 10000 --json docs/results/bench.json
	$(BIN)/python tools/make_readme.py
	$(BIN)/python tools/make_models.py

bench-ros: ros-env ## measure what ROS adds into docs/results/ros.json, in about six minutes
	. .venv-ros/env.sh && edgeseg bench --ros --json docs/results/ros.json \
	  && python tools/make_readme.py

docs: setup ## rewrite the tables of the README and of docs/ from docs/results
	$(BIN)/python tools/make_readme.py
	$(BIN)/python tools/make_support.py
	$(BIN)/python tools/make_models.py

eval: $(MODELS:%=eval-%) docs ## measure accuracy and failures of MODELS into docs/results

eval-%: setup
	$(BIN)/edgeseg check $* --json docs/results/check_$*.json
	$(BIN)/edgeseg eval $* --data $(call data_of,$*) --split test --precision fp32,int8 \
	  --json docs/results/eval_$*.json
	$(BIN)/edgeseg eval $* --data $(call data_of,$*) --split unseen --precision fp32,int8 \
	  --json docs/results/eval_unseen_$*.json
	$(BIN)/python tools/find_failures.py $* --data $(call data_of,$*)

domain: $(patsubst %,domain-%,$(filter fastinst-%,$(MODELS))) docs ## measure what each part of the unseen domain costs FastInst

domain-%: setup osmesa
	$(BIN)/python tools/study_domain.py $*

# From a training's best.pt to a packaged bundle, its ranges and the record of the training. NOTE
# is a sentence on how it was trained.
bundle-%: setup
	$(BIN)/edgeseg export $(RUNS)/$*/best.pt --out out/float/$* --overwrite
	$(BIN)/edgeseg quantize out/float/$* --data $(call data_of,$*) \
	  --out edgeseg/bundles/$* --overwrite
	cp edgeseg/bundles/$*/calibration.json calibration/$*.json
	$(BIN)/python tools/describe_model.py $*
	$(BIN)/python tools/plot_curve.py $* --run $(RUNS)/$* --note "$(NOTE)"

own-classes: setup osmesa ## run the example of docs/own-classes.md, about 25 minutes
	$(BIN)/python tools/own_classes.py
	$(BIN)/python tools/make_readme.py

int8: $(MODELS:%=int8-%) ## make INT8 of MODELS anew, from the committed ranges

int8-%: setup
	$(BIN)/edgeseg quantize $* --ranges calibration/$*.json --data $(call data_of,$*) \
	  --out edgeseg/bundles/$* --overwrite
	$(BIN)/python tools/describe_model.py $*

data: setup osmesa ## render the tabletop dataset: DATA640 (640x480, with train) and DATA (320x240)
	$(BIN)/python tools/make_dataset.py --out $(DATA) --splits val,calib,test,unseen
	$(BIN)/python tools/make_dataset.py --out $(DATA640) --size 640x480 --val 200

# MuJoCo draws with Mesa's off-screen library where there is no display; only root can install it.
osmesa:
	@ldconfig -p | grep -q libOSMesa || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null \
	  || { apt-get update -qq && apt-get install -y -qq --no-install-recommends libosmesa6; }

clean: ## remove what building and testing left
	rm -rf build dist out *.egg-info .mypy_cache .ruff_cache .pytest_cache
	rm -rf ros2_ws/build ros2_ws/install ros2_ws/log
