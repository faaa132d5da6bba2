"""The ROS 2 package "edgeseg"; its Python module is edgeseg_ros, the core is pip's edgeseg."""

from pathlib import Path

from setuptools import setup

SHARE = "share/edgeseg"
FOLDERS = ("launch", "config", "rviz", "foxglove")
HERE = Path(__file__).parent


def files(folder: str) -> list[str]:
    """What the share folder gets from ``folder``."""
    paths = sorted(path for path in (HERE / folder).iterdir() if path.is_file())
    return [f"{folder}/{path.name}" for path in paths]


setup(
    name="edgeseg_ros",
    version="0.1.0",
    description="The ROS 2 node of edgeseg",
    author="The edgeseg authors",
    license="Apache-2.0",
    packages=["edgeseg_ros"],
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/edgeseg"]),
        (SHARE, ["package.xml"]),
        *((f"{SHARE}/{folder}", files(folder)) for folder in FOLDERS),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    entry_points={
        "console_scripts": [
            "segment = edgeseg_ros.node:main",
            "camera = edgeseg_ros.camera:main",
        ]
    },
)
