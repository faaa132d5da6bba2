# Everything a person types. `make` alone lists the targets.
PYTHON ?= python3
TORCH  ?= torch==2.13.0
DATA   ?= $(or $(EDGESEG_DATA),$(HOME)/.cache/edgeseg/tabletop)
RANGES := calibration/fastinst-nano.json
COLCON ?= --symlink-install --cmake-args -DBUILD_TESTING=OFF
BIN    := .venv/bin
PIP    := -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup trt-env demo test check lint gpu ros ros-env format bench bench-ros eval int8 own-classes docs data clean osmesa

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

bench: setup ## measure speed and memory into docs/results/bench.json
	$(BIN)/edgeseg export fastinst-nano --out out/float/nano-640 --input-size 640x480 --overwrite
	$(BIN)/edgeseg quantize out/float/nano-640 --out out/nano-640 --ranges $(RANGES) --overwrite
	$(BIN)/edgeseg bench fastinst-nano out/nano-640 --frames 10000 --json docs/results/bench.json
	$(BIN)/python tools/make_readme.py

bench-ros: ros-env ## measure what ROS adds into docs/results/ros.json, in about six minutes
	. .venv-ros/env.sh && edgeseg bench --ros --json docs/results/ros.json \
	  && python tools/make_readme.py

docs: setup ## rewrite the tables of the README and of docs/ from docs/results
	$(BIN)/python tools/make_readme.py
	$(BIN)/python tools/make_support.py
	$(BIN)/python tools/make_models.py

eval: setup ## measure accuracy and failures on DATA's splits test and unseen into docs/results
	$(BIN)/edgeseg eval fastinst-nano --data $(DATA) --split test --precision fp32,int8 \
	  --json docs/results/eval.json
	$(BIN)/edgeseg eval fastinst-nano --data $(DATA) --split unseen --precision fp32,int8 \
	  --json docs/results/eval_unseen.json
	$(BIN)/python tools/find_failures.py fastinst-nano --data $(DATA)
	$(BIN)/python tools/make_readme.py
	$(BIN)/python tools/make_models.py

own-classes: setup osmesa ## run the example of docs/own-classes.md, about 25 minutes
	$(BIN)/python tools/own_classes.py
	$(BIN)/python tools/make_readme.py

int8: setup ## make INT8 of the packaged bundle anew, from the committed ranges
	$(BIN)/edgeseg quantize fastinst-nano --ranges $(RANGES) \
	  --data $(DATA) --out edgeseg/bundles/fastinst-nano --overwrite

data: setup osmesa ## render the tabletop dataset into DATA
	$(BIN)/python tools/make_dataset.py --out $(DATA)

# MuJoCo draws with Mesa's off-screen library where there is no display; only root can install it.
osmesa:
	@ldconfig -p | grep -q libOSMesa || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null \
	  || { apt-get update -qq && apt-get install -y -qq --no-install-recommends libosmesa6; }

clean: ## remove what building and testing left
	rm -rf build dist out *.egg-info .mypy_cache .ruff_cache .pytest_cache
	rm -rf ros2_ws/build ros2_ws/install ros2_ws/log
