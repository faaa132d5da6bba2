"""Settings: one tree for YAML, flags and ROS parameters."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeseg.config import CameraSettings, OutputSettings, Settings, leaves, read_settings
from edgeseg.errors import InputError


def test_a_file_leaves_out_what_it_does_not_say(tmp_path: Path) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text(
        "camera:\n  source: synthetic:320x240@30\n  live: false\n"
        "threads: 2\nscore_threshold: 1\nclasses: [mug, ball]\noutputs: {video: out.mp4}\n"
    )
    assert read_settings(path) == Settings(
        camera=CameraSettings("synthetic:320x240@30", live=False),
        threads=2,
        score_threshold=1.0,
        classes=("mug", "ball"),
        outputs=OutputSettings(video="out.mp4"),
    )


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing yet\n")
    assert read_settings(path) == Settings()


def test_flags_and_files_say_the_same() -> None:
    texts = {
        "camera.source": "a.mp4",
        "camera.live": "True",
        "threads": "3",
        "max_age_s": "0.25",
        "classes": "mug, ball",
        "outputs.jsonl": "a.jsonl",
    }
    nested = {
        "camera": {"source": "a.mp4", "live": True},
        "threads": 3,
        "max_age_s": 0.25,
        "classes": ["mug", "ball"],
        "outputs": {"jsonl": "a.jsonl"},
    }
    assert Settings().changed(texts) == Settings().changed(nested)


def test_every_leaf_can_be_set_by_its_name_and_has_a_meaning() -> None:
    texts = {str: "x", int: "1", float: "0.5", bool: "true", tuple: "a,b"}
    rows = list(leaves())
    assert [row.name for row in rows][:3] == ["camera.source", "camera.live", "camera.topic"]
    for row in rows:
        assert row.help
        kind = next(k for k in texts if k.__name__ in str(row.kind))
        text = "all" if row.name == "policy" else texts[kind]
        changed = Settings().changed({row.name: text})
        assert changed != Settings()
        assert changed.changed({row.name: row.default}) == Settings()
    assert {"--max-age-s", "--out", "--topic"} <= {row.flag for row in rows}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"camera": {"sorce": "a"}},
            "got unknown setting 'camera.sorce'; wanted a known one; did you mean 'camera.source'?",
        ),
        ({"zzz": 1}, "got unknown setting 'zzz'; wanted a known one; known are camera.source, "),
        ({"model.name": "a"}, "got unknown setting 'model.name'; wanted a known one"),
        ({"camera": "a"}, "got camera 'a'; wanted a table of settings; correct that setting"),
        ({"threads": "two"}, "got threads 'two'; wanted a whole number; correct that setting"),
        ({"threads": 1.5}, "got threads 1.5; wanted a whole number"),
        ({"threads": True}, "got threads True; wanted a whole number"),
        ({"threads": None}, "got threads None; wanted a whole number"),
        ({"threads": -1}, "got threads -1; wanted 0 to 1024"),
        ({"threads": 1025}, "got threads 1025; wanted 0 to 1024; correct that setting"),
        ({"score_threshold": 2}, "got score_threshold 2.0; wanted 0 to 1"),
        ({"score_threshold": "nan"}, "got score_threshold nan; wanted 0 to 1"),
        ({"camera.live": "perhaps"}, "got camera.live 'perhaps'; wanted true or false"),
        ({"max_age_s": 0}, "got max_age_s 0.0; wanted 0.001 to 1e+09"),
        ({"max_age_s": "nan"}, "got max_age_s nan; wanted 0.001 to 1e+09"),
        ({"max_age_s": "inf"}, "got max_age_s inf; wanted 0.001 to 1e+09"),
        ({"max_age_s": 1e300}, "got max_age_s 1e+300; wanted 0.001 to 1e+09"),
        ({"policy": "newest"}, "got policy 'newest'; wanted latest or all"),
        ({"classes": [1]}, "got classes [1]; wanted a list of names"),
        ({"model": 5}, "got model 5; wanted a text"),
    ],
)
def test_what_cannot_be_set_is_said(values: dict[str, object], text: str) -> None:
    with pytest.raises(InputError) as caught:
        Settings().changed(values)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a: [", "which can't be read (while parsing"),
        (b"\xff\xfe\x00", "which can't be read"),
        (b"- a\n- b\n", "wanted 'name: value' lines"),
        (None, "which can't be read ([Errno 2]"),
    ],
)
def test_a_file_that_is_no_settings(tmp_path: Path, content: bytes | None, text: str) -> None:
    path = tmp_path / "robot.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_settings(path)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
