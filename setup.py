"""The packaging metadata of edgeseg, all of it."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"', (HERE / "edgeseg" / "__init__.py").read_text("utf-8"), re.M
).group(1)

# The run half: what a robot needs. Never torch.
BASE = [
    "av>=17",
    "faster-coco-eval>=1.6",
    "numpy>=1.24",
    "onnxruntime>=1.17",
    "opencv-python-headless>=4.8",
    "PyYAML>=6",
    "tqdm>=4.60",
]
OPENVINO = ["openvino>=2025.0"]
BAG = ["mcap>=1.1", "rosbags>=0.11"]
TRAIN = ["safetensors>=0.4", "scipy>=1.10", "torch>=2.4"]
EXTRAS = {
    "train": TRAIN,
    "export": ["onnx>=1.16", "safetensors>=0.4", "torch>=2.4"],
    "bag": BAG,
    "openvino": OPENVINO,
    "tensorrt": ["cuda-bindings>=12", "tensorrt>=10"],
    "rtx": ["cuda-bindings>=12", "tensorrt-rtx>=1.1"],
    "pycuda": ["pycuda>=2024.1"],
    # rclpy and the message packages come with a ROS distribution, not from pip.
    "ros": [],
    "gui": ["websockets>=12"],
    "dev": [
        *BAG,
        *OPENVINO,
        "codespell>=2.3",
        "import-linter>=2.3",
        "mcap-ros2-support>=0.5",
        "mujoco>=3.2",
        "mypy>=1.11",
        "pre-commit>=3.5",
        "psutil>=5.9",
        "pytest>=8",
        "ruff>=0.6",
        "setuptools>=64",
        "types-PyYAML",
        "types-tqdm",
    ],
}

setup(
    name="edgeseg",
    version=VERSION,
    description="Frame in, masks out: real-time instance segmentation for robots",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    author="The edgeseg authors",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["edgeseg", "edgeseg.*"]),
    package_data={"edgeseg": ["py.typed", "bundles/*/*", "sinks/msg/*.msg"]},
    include_package_data=False,
    install_requires=BASE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["edgeseg = edgeseg.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)
