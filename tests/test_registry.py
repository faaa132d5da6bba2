"""The tables of names: everything in them exists, nothing is imported early, plug-ins may join."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from edgeseg import registry
from edgeseg.errors import InputError, MissingPartError, unknown
from edgeseg.registry import Entry, resolve

ROWS = [(kind, name) for kind, table in registry.TABLES.items() for name in table]


@pytest.mark.parametrize(("kind", "name"), ROWS)
def test_every_row_leads_to_a_class(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: object())  # as on a Jetson
    part = resolve(kind, name)
    assert isinstance(part, type)
    assert registry.TABLES[kind][name].target == f"{part.__module__}:{part.__qualname__}"


def test_the_tables_import_no_part() -> None:
    code = (
        "import sys, edgeseg.registry\n"
        "print([m for m in ('cv2', 'onnxruntime', 'torch', 'av', 'numpy') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        (
            "engine",
            "orr",
            "got engine 'orr'; wanted one of eager, fake, openvino, ort, trt, trt-dla, "
            "trt-dla1; did you mean 'ort'?",
        ),
        ("camera", "v4l", "got camera 'v4l'; wanted one of bag, files, synthetic; this release"),
        (
            "sink",
            "json",
            "got sink 'json'; wanted one of jsonl, mcap, video; did you mean 'jsonl'?",
        ),
        ("model", "fastints", "got model 'fastints'; wanted one of fastinst, knet; did you mean"),
    ],
)
def test_an_unknown_name_lists_the_known(kind: str, name: str, text: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(kind, name)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("kind", "hint", "end"),
    [
        ("precision", "", "; leave it out for the bundle's first"),
        ("variant", "", "; choose one of them"),
        ("planet", "", "; choose one of them"),
        ("planet", "look up", "; look up"),
    ],
)
def test_what_to_do_depends_on_the_kind(kind: str, hint: str, end: str) -> None:
    assert str(unknown(kind, "xyz", ["fp32", "nano"], hint)).endswith(f"fp32, nano{end}")


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (
            Entry("edgeseg_no_such_library:Engine", "tensorrt"),
            "got no module 'edgeseg_no_such_library'; this part needs it; "
            "run: pip install 'edgeseg[tensorrt]'",
        ),
        (
            Entry("edgeseg_no_such_library:Engine"),
            "got no module 'edgeseg_no_such_library'; edgeseg_no_such_library needs it; "
            "run: pip install --force-reinstall edgeseg",
        ),
        (
            Entry("edgeseg.errors:NoSuchClass"),
            "got no 'NoSuchClass' in edgeseg.errors; wanted the class of engine 'odd'; "
            "mend the entry point of that plug-in",
        ),
    ],
)
def test_a_part_that_is_not_there(monkeypatch: pytest.MonkeyPatch, entry: Entry, text: str) -> None:
    monkeypatch.setitem(registry.ENGINES, "odd", entry)
    with pytest.raises(MissingPartError) as caught:
        resolve("engine", "odd")
    assert str(caught.value) == text
    assert caught.value.exit_code == 3


def test_a_library_that_is_broken(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("library")
    (folder / "edgeseg_broken_library.py").write_text("raise ImportError('no libGL.so.1')")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(registry.ENGINES, "odd", Entry("edgeseg_broken_library:Engine"))
    with pytest.raises(MissingPartError, match=r"got no libGL\.so\.1; wanted engine 'odd' to load"):
        resolve("engine", "odd")


def test_a_plug_in_adds_a_row_but_never_replaces_one(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("mine", "edgeseg.engines.fake:FakeEngine", "edgeseg.engines"),
        EntryPoint("ort", "edgeseg.engines.fake:FakeEngine", "edgeseg.engines"),
    ]
    monkeypatch.setattr(
        registry, "entry_points", lambda group: points if group == "edgeseg.engines" else []
    )
    assert resolve("engine", "mine").__name__ == "FakeEngine"
    assert resolve("engine", "ort").__name__ == "OrtEngine"
    with pytest.raises(InputError, match="wanted one of eager, fake, mine, openvino, ort, trt"):
        resolve("engine", "nothing-like-it")
