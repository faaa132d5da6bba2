"""Parameters: what is refused and how, and what counts from the next image on."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ros.harness import NODE, Peer, ask, image, picture, until

from edgeseg.errors import InputError
from edgeseg_ros.settings import rows

pytestmark = pytest.mark.ros
Make = Callable[..., Any]

# At start: YAML below `segment: ros__parameters:`, and what the one line must name.
WRONG_AT_START = {
    "score_above_1": ("score_threshold: 7.0", "score_threshold"),
    "score_below_0": ("score_threshold: -0.1", "score_threshold"),
    "score_nan": ("score_threshold: .nan", "score_threshold"),
    "score_text": ("score_threshold: high", "score_threshold"),
    "threads_fraction": ("threads: 2.5", "threads"),
    "threads_negative": ("threads: -1", "threads"),
    "threads_bool": ("threads: true", "threads"),
    "no_instances": ("max_instances: 0", "max_instances"),
    "classes_numbers": ("classes: [1, 2]", "classes"),
    "precision_number": ("precision: 5", "precision"),
    "source_unknown": ("source: radio", "source 'radio'; wanted one of topic, camera, file"),
    "camera_missing": ("source: camera", "without camera.source"),
    "policy_unknown": ("policy: oldest", "policy 'oldest'; wanted latest or all"),
    "age_zero": ("max_age_s: 0.0", "max_age_s"),
    "publish_text": ("publish: {overlay: maybe}", "publish.overlay"),
    "autostart_number": ("autostart: 3", "autostart"),
    "patience_zero": ("no_frame_warning_s: 0.0", "no_frame_warning_s"),
}


@pytest.mark.parametrize("name", WRONG_AT_START)
def test_wrong_in_the_file(name: str, spun: Make, tmp_path: Path) -> None:
    line, named = WRONG_AT_START[name]
    with pytest.raises(InputError) as raised:
        spun("--params-file", write(tmp_path, line))
    text = str(raised.value)
    assert named in text and "; wanted " in text and "\n" not in text


@pytest.mark.parametrize("name", ["score_above_1", "threads_fraction", "source_unknown"])
def test_wrong_in_the_file_of_a_process(name: str, start: Make, tmp_path: Path) -> None:
    """Exit code 2, and one line that names it."""
    line, named = WRONG_AT_START[name]
    process = start(*NODE, "--params-file", write(tmp_path, line))
    assert process.wait() == 2, process.text
    (said,) = process.text.strip().splitlines()
    assert named in said and "; wanted " in said


def write(folder: Path, line: str) -> str:
    path = folder / "wrong.yaml"
    path.write_text(f"/**/segment:\n  ros__parameters:\n    {line}\n")
    return str(path)


UNREADABLE = {
    "mixed_list": "/**/segment:\n  ros__parameters:\n    classes: [mug, 2]\n",
    "no_yaml": "/**/segment:\n  ros__parameters:\n    threads: [\n",
    "no_table": "[1, 2, 3]\n",
    "no_file": None,
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_file(name: str, start: Make, tmp_path: Path) -> None:
    """Exit code 2, and one line of ours that names the file, after one of rcl."""
    text = UNREADABLE[name]
    if text is not None:
        (tmp_path / "wrong.yaml").write_text(text)
    process = start(*NODE, "--params-file", tmp_path / "wrong.yaml")
    assert process.wait() == 2, process.text
    *others, line = process.text.strip().splitlines()
    assert line.startswith("got arguments that ROS can't read (") and "wrong.yaml" in line
    assert "; wanted " in line and ".c:" not in line
    assert all("[rcl]" in one for one in others)


@pytest.mark.parametrize("word", ["score_threshold:=7.0", "publish.overlay:=5"])
def test_wrong_on_the_command_line(word: str, start: Make) -> None:
    process = start(*NODE, "-p", word)
    assert process.wait() == 2, process.text
    (line,) = process.text.strip().splitlines()
    assert word.partition(":")[0] in line and "; wanted " in line


def test_unreadable_words(start: Make) -> None:
    process = start(*NODE, "-r", "image")
    assert process.wait() == 2, process.text
    assert "got arguments that ROS can't read (" in process.text.splitlines()[-1]


# At run time: parameter, wrong value, and what the reason says.
WRONG_AT_RUN_TIME = [
    ("score_threshold", 7.0, "score_threshold"),
    ("score_threshold", float("nan"), "score_threshold"),
    ("score_threshold", -0.1, "score_threshold"),
    ("score_threshold", "high", "wanted a number"),
    ("score_threshold", True, "wanted a number"),
    ("max_instances", 0, "max_instances"),
    ("max_instances", 2.5, "max_instances"),
    ("classes", ["red", "pink"], "pink"),
    ("classes", [1, 2], "wanted a list of names"),
    ("no_frame_warning_s", 0.0, "no_frame_warning_s"),
    ("publish.overlay", "maybe", "wanted true or false"),
    ("model", "other", "model while the network is loaded; .*call cleanup first"),
    ("engine", "ort", "engine while the network is loaded"),
    ("threads", 1, "threads while the network is loaded"),
    ("source", "camera", "without camera.source"),
    ("camera.source", "a.mp4", "camera.source while the network is loaded"),
    ("policy", "all", "policy while the network is loaded"),
    ("autostart", True, "."),
    ("build_only", True, "."),
    ("no_such_parameter", 1, "."),
    ("score_threshold", None, "deletion of score_threshold; wanted a value"),
    ("publish.overlay", None, "deletion of publish.overlay; wanted a value"),
]


def test_wrong_at_run_time(active: Make, peer: Peer) -> None:
    """Refused with a sentence, the old value stays, and the node lives."""
    from edgeseg_msgs.msg import InstanceArray

    node = active(score_threshold=0.6, classes=["red", "green"])
    names = {name for name, *_ in WRONG_AT_RUN_TIME} - {"no_such_parameter"}
    before = {name: peer.get(name) for name in names}
    for name, value, sentence in WRONG_AT_RUN_TIME:
        reason = peer.set(**{name: value})
        assert re.search(sentence, reason), (name, value, reason)
        assert "\n" not in reason and "Traceback" not in reason
    assert {name: peer.get(name) for name in names} == before
    assert node.lives and peer.state() == "active"
    answers = peer.collect(InstanceArray, "/segment/instances")
    (found,) = ask(peer, peer.publisher(), image(picture()), answers)
    assert len(found.ids) == 2


def test_what_the_network_needs_changes_after_cleanup(active: Make, peer: Peer) -> None:
    active()
    assert "call cleanup first" in peer.set(threads=1)
    assert peer.change("deactivate")
    assert "call cleanup first" in peer.set(threads=1)
    assert peer.change("cleanup")
    assert peer.set(threads=1) == ""
    assert peer.change("configure")
    assert peer.get("threads") == 1


def test_a_handler_that_raises_does_not_end_the_node(
    active: Make, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = active().node

    def fail(**words: Any) -> None:
        raise RuntimeError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(node._segmenter, "choose", fail)
        assert "no room" in peer.set(score_threshold=0.9)
    assert peer.get("score_threshold") is None
    assert peer.set(score_threshold=0.9) == ""


def test_choices_count_from_the_next_image_on(active: Make, peer: Peer) -> None:
    """The fake engine sees a red blob of score 0.95 and a green one of 0.94."""
    from edgeseg_msgs.msg import InstanceArray

    active()
    answers = peer.collect(InstanceArray, "/segment/instances")
    publisher = peer.publisher()
    second = iter(range(1, 100))

    def seen() -> list[int]:
        (found,) = ask(peer, publisher, image(picture(), stamp=(next(second), 0)), answers)
        return [*found.class_ids]

    assert seen() == [0, 1]
    for changes, wanted in [
        ({"score_threshold": 0.945}, [0]),
        ({"score_threshold": 1}, []),
        ({"score_threshold": 0.0}, [0, 1]),
        ({"max_instances": 1}, [0]),
        ({"max_instances": 20}, [0, 1]),
        ({"classes": ["green"]}, [1]),
        ({"classes": ["blue"]}, []),
        ({"classes": ["green", "red"]}, [0, 1]),
        ({"classes": ["green"]}, [1]),
        ({"classes": []}, [0, 1]),
    ]:
        assert peer.set(**changes) == "", changes
        assert seen() == wanted, changes


def test_choices_outlive_another_configuration(active: Make, peer: Peer) -> None:
    from edgeseg_msgs.msg import InstanceArray

    active()
    assert peer.set(classes=["green"]) == ""
    for transition in ("deactivate", "cleanup", "configure", "activate"):
        assert peer.change(transition)
    answers = peer.collect(InstanceArray, "/segment/instances")
    (found,) = ask(peer, peer.publisher(), image(picture()), answers)
    assert [*found.class_ids] == [1]


def test_a_class_that_the_bundle_lacks_fails_at_configure(spun: Make, peer: Peer) -> None:
    spun(classes=["pink"])
    assert not peer.change("configure")
    assert peer.hears("^configure: .*pink.*red")
    assert peer.set(classes=["red"]) == ""
    assert peer.change("configure")


@pytest.mark.parametrize("nothing", ["", "null"])
def test_nothing_leaves_the_default(nothing: str, spun: Make, peer: Peer) -> None:
    """'ros2 param dump' writes "null" for what is unset; its file can be read back."""
    node = spun(score_threshold=nothing, max_instances=nothing, classes=nothing, policy=nothing)
    assert peer.change("configure"), peer.logs
    settings = node.node.settings
    assert (settings.score_threshold, settings.max_instances, settings.classes) == (None, None, ())


def test_every_parameter_is_described(spun: Make, peer: Peer) -> None:
    from rcl_interfaces.srv import DescribeParameters

    spun()
    names = [row.name for row in rows()]
    answer = peer.call(DescribeParameters, "/segment/describe_parameters", names=names)
    for row, found in zip(rows(), answer.descriptors, strict=True):
        assert found.description.startswith(row.help)
        assert found.read_only == (row.name in ("autostart", "build_only"))
        ranges = [*found.integer_range, *found.floating_point_range]
        assert [(one.from_value, one.to_value) for one in ranges] == [row.bounds] * bool(row.bounds)


def test_parameters_change_while_images_come(active: Make, peer: Peer) -> None:
    """Thresholds and switches, hundreds of times, under load; the last one holds."""
    from edgeseg_msgs.msg import InstanceArray

    active()
    answers = peer.collect(InstanceArray, "/segment/instances")
    publisher = peer.publisher()
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.01):
            publisher.publish(image(picture()))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        for number in range(100):
            assert peer.set(score_threshold=number / 100, publish__overlay=bool(number % 2)) == ""
        until(lambda: answers and len(answers[-1].ids) == 0, lambda: answers[-1:])
    finally:
        stop.set()
        thread.join()
    assert peer.health("segmentation")[2]["callback errors"] == "0"
