"""Guards of ros2_ws, without ROS: colcon passes over a faulty package file in silence."""

from __future__ import annotations

import ast
import configparser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

import edgeseg

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "ros2_ws" / "src"
BUILD_TYPES = {"edgeseg": "ament_python", "edgeseg_msgs": "ament_cmake"}
NODE = SOURCES / "edgeseg"
MODULE = NODE / "edgeseg_ros"
SHARED = ("launch", "config", "rviz", "foxglove")
MESSAGES = sorted((SOURCES / "edgeseg_msgs" / "msg").glob("*.msg"))
# Imported where they are there, done without where they aren't.
OPTIONAL = {"vision_msgs"}


def manifest(name: str) -> ElementTree.Element:
    return ElementTree.parse(SOURCES / name / "package.xml").getroot()


def texts(name: str, *tags: str) -> list[str | None]:
    return [row.text for tag in tags for row in manifest(name).findall(tag)]


def dependencies(name: str) -> set[str | None]:
    return set(texts(name, "depend", "exec_depend"))


# The workspace.


def test_the_packages_are_these() -> None:
    assert {path.parent.name for path in SOURCES.rglob("package.xml")} == set(BUILD_TYPES)


def test_colcon_ignores_nothing() -> None:
    """A COLCON_IGNORE at the root would hide the workspace from whoever builds from above it."""
    assert not (ROOT / "COLCON_IGNORE").exists()
    assert not list(SOURCES.rglob("COLCON_IGNORE"))


def test_nothing_hides_the_core() -> None:
    """A module ``edgeseg`` in the workspace would be imported instead of pip's edgeseg."""
    found = [*SOURCES.rglob("edgeseg.py"), *SOURCES.rglob("edgeseg/__init__.py")]
    assert not found


# package.xml.


@pytest.mark.parametrize("name", BUILD_TYPES)
def test_manifest(name: str) -> None:
    root = manifest(name)
    assert (root.tag, root.get("format")) == ("package", "3")
    assert texts(name, "name") == [name]
    assert texts(name, "version") == [edgeseg.__version__]
    assert texts(name, "license") == ["Apache-2.0"]
    assert texts(name, "export/build_type") == [BUILD_TYPES[name]]
    assert all(texts(name, "description"))
    assert all("@" in row.get("email", "") for row in root.findall("maintainer"))
    assert root.find("maintainer") is not None


def test_messages_are_declared_to_be_interfaces() -> None:
    assert "rosidl_interface_packages" in texts("edgeseg_msgs", "member_of_group")
    assert "rosidl_default_generators" in texts("edgeseg_msgs", "buildtool_depend")
    assert "rosidl_default_runtime" in texts("edgeseg_msgs", "exec_depend")


def test_the_node_asks_for_what_it_imports() -> None:
    ours = {"edgeseg", "edgeseg_ros"}
    core = {"av", "cv2", "numpy", "onnxruntime", "tqdm", "yaml"}  # come with pip's edgeseg
    known = dependencies("edgeseg") | ours | core | OPTIONAL | set(sys.stdlib_module_names)
    strangers = {
        f"{path.name}: {name}"
        for path in [*MODULE.rglob("*.py"), *(NODE / "launch").glob("*.py")]
        for name in imported(path) - known
    }
    assert not strangers


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {one.name.partition(".")[0] for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


# setup.py of the node.


@pytest.fixture(scope="module")
def packaging(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the node's ``setup.py`` hands to setuptools, after somebody ran its launch file."""
    folder = tmp_path_factory.mktemp("package") / "edgeseg"
    shutil.copytree(NODE, folder)
    compiled = folder / "launch" / "__pycache__" / "segment.launch.cpython-311.pyc"
    compiled.parent.mkdir(exist_ok=True)
    compiled.touch()
    code = (
        "import json, runpy, setuptools\n"
        "setuptools.setup = lambda **words: print(json.dumps(words))\n"
        "runpy.run_path('setup.py')\n"
    )
    done = subprocess.run(
        (sys.executable, "-c", code), cwd=folder, capture_output=True, text=True, check=True
    )
    words: dict[str, Any] = json.loads(done.stdout)
    return words


def test_names_keep_the_two_distributions_apart(packaging: dict[str, Any]) -> None:
    assert packaging["name"] == "edgeseg_ros"
    assert packaging["version"] == edgeseg.__version__
    assert packaging["license"] == "Apache-2.0"


def test_every_module_is_installed(packaging: dict[str, Any]) -> None:
    folders = {path.parent.relative_to(NODE) for path in MODULE.rglob("*.py")}
    assert set(packaging["packages"]) == {".".join(folder.parts) for folder in folders}
    assert all((NODE / folder / "__init__.py").exists() for folder in folders)


def test_every_shared_file_is_installed(packaging: dict[str, Any]) -> None:
    wanted = {("share/ament_index/resource_index/packages", "resource/edgeseg")}
    wanted.add(("share/edgeseg", "package.xml"))
    for folder in SHARED:
        names = [path.name for path in (NODE / folder).iterdir() if path.is_file()]
        assert names, folder
        wanted |= {(f"share/edgeseg/{folder}", f"{folder}/{name}") for name in names}
    given = [(place, name) for place, names in packaging["data_files"] for name in names]
    assert sorted(given) == sorted(wanted)
    assert (NODE / "resource" / "edgeseg").is_file()


def test_every_command_is_there(packaging: dict[str, Any]) -> None:
    commands = dict(
        re.split(r"\s*=\s*", row) for row in packaging["entry_points"]["console_scripts"]
    )
    assert {"segment", "camera"} <= set(commands)
    for target in commands.values():
        module, function = target.split(":")
        tree = ast.parse((NODE / f"{module.replace('.', '/')}.py").read_text("utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_commands_are_where_ros2_run_looks() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(NODE / "setup.cfg")
    assert config["develop"]["script_dir"] == "$base/lib/edgeseg"
    assert config["install"]["install_scripts"] == "$base/lib/edgeseg"


def test_shared_files_can_be_read() -> None:
    readers = {
        ".json": lambda path: json.loads(path.read_text("utf-8")),
        ".py": lambda path: ast.parse(path.read_text("utf-8")),
        ".rviz": lambda path: yaml.safe_load(path.read_text("utf-8")),
        ".xml": ElementTree.parse,
        ".yaml": lambda path: yaml.safe_load(path.read_text("utf-8")),
    }
    for folder in SHARED:
        for path in filter(Path.is_file, (NODE / folder).iterdir()):
            assert readers[path.suffix](path) is not None, path.name


# Messages.


FIELD = re.compile(r"^(?P<type>[\w/]+)(\[[^\]]*\])?\s+(?P<name>[a-z][a-z0-9_]*)\s*(#.*)?$")


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_each_field_of_a_message_is_explained(path: Path) -> None:
    """By a comment at the head of its paragraph, or on its line."""
    about, *paragraphs = path.read_text("utf-8").strip().split("\n\n")
    assert all(line.startswith("#") for line in about.splitlines()), "what the message is"
    fields = 0
    for paragraph in paragraphs:
        lines = paragraph.splitlines()
        for line in lines:
            if not line.startswith("#"):
                assert FIELD.match(line), line
                assert lines[0].startswith("#") or "#" in line, f"{line}: no comment"
                fields += 1
    assert fields


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_each_message_is_generated_with_what_it_uses(path: Path) -> None:
    recipe = (SOURCES / "edgeseg_msgs" / "CMakeLists.txt").read_text("utf-8")
    assert f'"msg/{path.name}"' in recipe
    used = re.findall(r"^(\w+)/\w+", path.read_text("utf-8"), re.MULTILINE)
    for name in set(used) - {"edgeseg_msgs"}:
        assert name in dependencies("edgeseg_msgs")
        assert re.search(rf"DEPENDENCIES[^)]*\b{name}\b", recipe)
        assert f"find_package({name} REQUIRED)" in recipe
