"""Guards of the house: what the wheel holds, who imports whom, what the README promises."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import edgeseg
from edgeseg import bundle, doctor, registry

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def run(*words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )


def python(code: str, **environment: str) -> str:
    done = run(sys.executable, "-c", code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def packaging() -> dict[str, Any]:
    """What ``setup.py`` hands to setuptools."""
    code = (
        "import json, runpy, setuptools\n"
        "setuptools.setup = lambda **words: print(json.dumps(words))\n"
        "runpy.run_path('setup.py')\n"
    )
    words: dict[str, Any] = ast.literal_eval(
        python(code).replace("false", "False").replace("true", "True")
    )
    return words


# Imports.


def test_import_edgeseg_loads_neither_torch_nor_cv2() -> None:
    heavy = python(
        "import sys, edgeseg\n"
        "print(sorted({'torch', 'cv2', 'onnxruntime', 'av', 'onnx', 'yaml'} & set(sys.modules)))"
    )
    assert heavy.strip() == "[]"


@pytest.mark.parametrize("name", sorted(edgeseg.__all__))
def test_no_public_name_loads_torch(name: str) -> None:
    look = "print(sorted({'torch', 'onnx'} & set(sys.modules)))"
    loaded = python(f"import sys, edgeseg\nedgeseg.{name}\n{look}")
    assert loaded.strip() == "[]"


def test_every_public_name_is_documented() -> None:
    for name in edgeseg.__all__:
        assert getattr(edgeseg, name).__doc__, name


def test_the_import_rules_hold() -> None:
    done = run(str(BIN / "lint-imports"), "--no-cache")
    assert done.returncode == 0, done.stdout


def test_the_import_rules_can_fail(tmp_path: Path) -> None:
    """The contract is alive: a torch import in the run half breaks it."""
    shutil.copytree(
        ROOT / "edgeseg", tmp_path / "edgeseg", ignore=shutil.ignore_patterns("bundles")
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "edgeseg" / "timing.py").open("a") as module:
        module.write("\n\ndef late() -> None:\n    import torch\n")
    done = run(str(BIN / "lint-imports"), "--no-cache", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1, done.stdout
    assert "edgeseg.timing -> torch" in done.stdout


# Packaging.


def test_names_agree(packaging: dict[str, Any]) -> None:
    assert packaging["name"] == "edgeseg"
    assert packaging["version"] == edgeseg.__version__
    assert packaging["entry_points"]["console_scripts"] == ["edgeseg = edgeseg.cli:main"]
    assert packaging["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text("utf-8")
    assert "[project]" not in (ROOT / "pyproject.toml").read_text("utf-8")


def test_the_base_install_is_small(packaging: dict[str, Any]) -> None:
    names = {re.split(r"[<>=]", one)[0] for one in packaging["install_requires"]}
    assert names == set(doctor.BASE)
    assert not names & {"torch", "onnx", "scipy", "matplotlib", "mujoco"}


def test_extras_are_the_same_everywhere(packaging: dict[str, Any]) -> None:
    extras = set(packaging["extras_require"])
    others = {"bag", "openvino", "tensorrt", "rtx", "pycuda", "ros", "gui"}
    assert extras == {"train", "export", "dev", *others}
    assert set(doctor.EXTRAS) == extras - {"dev"}
    from edgeseg.cli import VERBS

    named = {row.extra for rows in registry.TABLES.values() for row in rows.values()}
    named |= {verb.extra for verb in VERBS.values()}
    assert named - {""} <= extras


def test_modules_of_an_extra_come_from_its_distributions(packaging: dict[str, Any]) -> None:
    for extra, modules in doctor.EXTRAS.items():
        wanted = {re.split(r"[<>=]", one)[0] for one in packaging["extras_require"][extra]}
        named = {{"cuda": "cuda-bindings"}.get(m, m.replace("_", "-")) for m in modules}
        assert named == wanted or extra == "ros", extra


@pytest.mark.slow
def test_the_wheel_holds_code_types_and_bundles(tmp_path: Path) -> None:
    source = tmp_path / "source"
    waste = shutil.ignore_patterns("__pycache__", "*.part")
    shutil.copytree(ROOT / "edgeseg", source / "edgeseg", ignore=waste)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    done = run(
        sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(source)
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    present = {str(p.relative_to(source)) for p in (source / "edgeseg").rglob("*") if p.is_file()}
    assert {name for name in names if name.startswith("edgeseg/")} == present
    assert "edgeseg/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "tools", "docs"))]
    assert {f"edgeseg/bundles/{name}/bundle.json" for name in bundle.packaged()} <= names
    assert wheel.stat().st_size < 5e6 + 16e6 * len(bundle.packaged())


# README.


def readme() -> str:
    return (ROOT / "README.md").read_text("utf-8")


def test_links_of_all_documents_exist() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_tables_of_the_readme_are_up_to_date() -> None:
    done = run(sys.executable, "tools/make_readme.py", "--check")
    assert done.returncode == 0, "run: make docs"
    assert "Not measured yet" not in (ROOT / "README.md").read_text("utf-8")


# Skips that can't hide.


REQUIREMENTS = [("", 0), ("cuda", 0), ("ros", 1), ("ROS", 1), ("no_such_module", 1)]
REQUIREMENTS += [("CRYSTAL", 1), ("cuda, Ros", 1), ("All", 3)]


def test_a_required_part_turns_a_skip_into_a_failure(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    ros: needs ROS 2\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n\n\n@pytest.mark.ros\ndef test_node():\n    pass\n\n\n"
        "def test_other():\n    pytest.skip('needs a Crystal ball')\n"
    )
    (tmp_path / "test_module.py").write_text(
        "import pytest\n\npytest.importorskip('no_such_module')\n"
    )
    words = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    words += ("--continue-on-collection-errors",)
    for required, failures in REQUIREMENTS:
        done = run(*words, cwd=tmp_path, EDGESEG_REQUIRE=required, EDGESEG_RECORD="")
        bad = sum(
            int(n) for n in re.findall(r"(\d+) (?:failed|error)", done.stdout.splitlines()[-1])
        )
        assert (bad > 0, bad) == (failures > 0, failures), (required, done.stdout)


# Names of modules where they differ from those of the distributions that bring them.
MODULES = {
    "cuda-bindings": "cuda",
    "faster-coco-eval": "faster_coco_eval",
    "mcap-ros2-support": "mcap_ros2",
    "opencv-python-headless": "cv2",
    "PyYAML": "yaml",
}


def test_whatever_is_imported_is_declared(packaging: dict[str, Any]) -> None:
    """A fresh machine has what ``setup.py`` names, and nothing else."""
    groups = [packaging["install_requires"], *packaging["extras_require"].values()]
    words = [word for group in groups for word in group]
    declared = {re.split(r"[<>=]", word)[0] for word in words}
    ours = {path.stem for folder in ("tools", "tests") for path in (ROOT / folder).glob("*.py")}
    ours |= {"edgeseg", "parity", *(path.name for path in (ROOT / "tests").iterdir())}
    known = {MODULES.get(name, name) for name in declared} | ours | set(sys.stdlib_module_names)
    strangers = set()
    for folder in ("edgeseg", "tests", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            ros = ros_modules() if path.is_relative_to(ROOT / "tests" / "ros") else set()
            strangers |= {f"{path.name}: {name}" for name in imported(path) - known - ros}
    assert not strangers


def ros_modules() -> set[str | None]:
    """What ros2_ws makes, and what its packages ask a ROS distribution for."""
    manifests = [ElementTree.parse(p) for p in (ROOT / "ros2_ws" / "src").glob("*/package.xml")]
    tags = ("name", "depend", "exec_depend", "test_depend")
    return {"edgeseg_ros"} | {row.text for m in manifests for tag in tags for row in m.iter(tag)}


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {one.name.partition(".")[0] for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names
