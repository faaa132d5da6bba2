"""The launch file, run for real where launch_ros is there: ROS has it, PyPI has not."""

from __future__ import annotations

import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from ros.harness import Image, Peer, ask, image, picture, until

pytest.importorskip("launch_ros", reason="needs launch_ros")
pytestmark = pytest.mark.ros
Make = Callable[..., Any]
LIMIT_S = 120.0
SYNTHETIC = "synthetic:160x120@30"
# What `ros2 launch` does, where there is no ros2cli.
LAUNCH = """
import sys
from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import AnyLaunchDescriptionSource
file = get_package_share_directory("edgeseg") + "/launch/segment.launch.py"
words = [tuple(word.split(":=", 1)) for word in sys.argv[1:]]
service = LaunchService(argv=sys.argv[1:], noninteractive=True)
source = AnyLaunchDescriptionSource(file)
included = IncludeLaunchDescription(source, launch_arguments=words)
service.include_launch_description(LaunchDescription([included]))
sys.exit(service.run())
"""
WITH_CLI = pytest.mark.skipif(shutil.which("ros2") is None, reason="needs ros2cli")


@pytest.fixture
def launch(start: Make, fake_bundle: Path) -> Callable[..., Any]:
    """Launches the file with the fake engine."""

    def run(*words: str, fake: bool = True) -> Any:
        model = (f"model:={fake_bundle}", "engine:=fake") if fake else ()
        if shutil.which("ros2"):
            return start("ros2", "launch", "edgeseg", "segment.launch.py", *model, *words)
        return start(sys.executable, "-c", LAUNCH, *model, *words)

    return run


def instances(peer: Peer, node: str = "/segment") -> list[Any]:
    from edgeseg_msgs.msg import InstanceArray

    return peer.collect(InstanceArray, f"{node}/instances")


def wait_for(state: str, peer: Peer, launched: Any, node: str = "/segment") -> None:
    until(lambda: peer.state(node) == state, lambda: launched.text, 40, every_s=0.1)


def child(launched: Any, name: str) -> psutil.Process:
    """The newest process that was launched from an executable of the package."""
    numbers = re.findall(rf"\[{name}-\d+\]: process started with pid \[(\d+)\]", launched.text)
    return psutil.Process(int(numbers[-1]))


def test_a_camera_inside_the_node_and_the_end(launch: Make, peer: Peer) -> None:
    launched = launch("source:=camera", f"device:={SYNTHETIC}")
    answers = instances(peer)
    wait_for("active", peer, launched)
    until(lambda: len(answers) > 10, lambda: launched.text)
    node = child(launched, "segment")
    launched.popen.send_signal(signal.SIGINT)
    launched.wait(20)
    assert not node.is_running()
    assert "process has finished cleanly" in launched.text, launched.text
    assert "Traceback" not in launched.text and "escalating" not in launched.text


def test_an_image_topic_with_the_real_network(launch: Make, peer: Peer) -> None:
    launched = launch("image_topic:=/camera/image_raw", fake=False)
    wait_for("active", peer, launched)
    (found,) = ask(peer, peer.publisher("/camera/image_raw"), image(picture()), instances(peer))
    assert (found.height, found.width, found.header.frame_id) == (96, 128, "optical")
    assert peer.get("model") == "fastinst-nano"


@WITH_CLI
def test_topic_hz_shows_the_rate_of_the_camera(launch: Make, start: Make, peer: Peer) -> None:
    launched = launch("device:=tabletop", "image_topic:=camera/image_raw")
    wait_for("active", peer, launched)
    answers = instances(peer)
    watching = start("ros2", "topic", "hz", "--window", "30", "/camera/image_raw")

    def as_fast_as_the_clip() -> bool:
        rates = map(float, re.findall(r"average rate: ([\d.]+)", watching.text))
        return any(abs(rate - 30) < 3 for rate in rates)

    until(as_fast_as_the_clip, lambda: (watching.text, launched.text), 40, every_s=0.2)
    until(lambda: len(answers) > 10, lambda: launched.text)
    assert {one.header.frame_id for one in answers} == {"camera_optical_frame"}
    camera, node = child(launched, "camera").environ(), child(launched, "segment").environ()
    assert camera["FASTDDS_DEFAULT_PROFILES_FILE"].endswith("edgeseg/config/fastdds.xml")
    assert node["FASTDDS_DEFAULT_PROFILES_FILE"] == camera["FASTDDS_DEFAULT_PROFILES_FILE"]
    assert node["MALLOC_MMAP_THRESHOLD_"] == str(32 << 20)


@WITH_CLI
def test_every_argument_is_shown(start: Make) -> None:
    shown = start("ros2", "launch", "edgeseg", "segment.launch.py", "--show-args")
    assert shown.wait() == 0, shown.text
    names = "namespace params_file model engine source image_topic device autostart use_sim_time"
    wanted = f"{names} log_level respawn fastdds_profile".split()
    assert re.findall(r"^    '(\w+)':$", shown.text, re.MULTILINE) == wanted


def test_a_node_in_each_namespace(launch: Make, peer: Peer) -> None:
    devices = "device:=synthetic:160x120@30,synthetic:96x64@30"
    launched = launch("namespace:=left,right", devices)
    answers = {side: instances(peer, f"/{side}/segment") for side in ("left", "right")}
    for side in answers:
        wait_for("active", peer, launched, f"/{side}/segment")
    until(lambda: all(len(found) > 5 for found in answers.values()), lambda: launched.text)
    assert {one.width for one in answers["left"]} == {160}
    assert {one.width for one in answers["right"]} == {96}
    assert peer.node.count_publishers("/left/image_raw") == 1
    until(lambda: peer.health(node="right/segment")[0] == 0, lambda: peer.statuses)


def test_without_autostart_it_waits(launch: Make, peer: Peer) -> None:
    launched = launch("autostart:=False", "source:=camera", f"device:={SYNTHETIC}")
    answers = instances(peer)
    assert peer.state() == "unconfigured"
    assert peer.change("configure") and peer.change("activate"), launched.text
    until(lambda: answers, lambda: launched.text)


def test_it_becomes_active_again_after_a_respawn(launch: Make, peer: Peer) -> None:
    """After a kill too, which leaves services behind that nobody answers."""
    launched = launch("respawn:=true", "source:=camera", f"device:={SYNTHETIC}")
    answers = instances(peer)
    until(lambda: len(answers) > 5, lambda: launched.text, 40)
    node = child(launched, "segment")
    node.kill()
    launched.says("process has died .*exit code -9")
    answers.clear()
    until(lambda: len(answers) > 5, lambda: launched.text, 40)


def test_parameters_of_a_file_and_of_words(launch: Make, peer: Peer, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "/**/segment:\n  ros__parameters:\n    score_threshold: 0.9\n    autostart: true\n"
        f"    source: camera\n    camera: {{source: '{SYNTHETIC}'}}\n"
    )
    launched = launch(f"params_file:={path}", "use_sim_time:=True", "log_level:=debug")
    wait_for("active", peer, launched)
    assert peer.get("score_threshold") == 0.9
    assert peer.get("use_sim_time") is True
    assert peer.get("camera.source") == SYNTHETIC
    answers = instances(peer)
    until(lambda: answers, lambda: launched.text)
    assert launched.text.count("loaded fake") == 1, "once, by launch or by itself"


def test_names_that_look_like_numbers_stay_names(launch: Make, peer: Peer, video: Path) -> None:
    launched = launch("source:=camera", "device:=5", "autostart:=false")
    until(lambda: peer.get("camera.source") == "5", lambda: launched.text)


WRONG = {
    "more_devices": (("device:=a,b",), "got 2 devices for 1 namespaces; wanted one for each"),
    "more_namespaces": (("namespace:=a,b,c", "device:=a,b"), "got 2 devices for 3 namespaces"),
    "no_switch": (("respawn:=perhaps",), "got respawn 'perhaps'; wanted true or false"),
    "no_clock": (("use_sim_time:=perhaps",), "got use_sim_time 'perhaps'; wanted true or false"),
    "no_file": (("params_file:=/nowhere.yaml",), "'/nowhere.yaml'; wanted"),
    "no_profile": (("fastdds_profile:=/nowhere.xml",), "'/nowhere.xml'; wanted"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_end_it_with_a_sentence(name: str, launch: Make) -> None:
    words, sentence = WRONG[name]
    launched = launch(*words)
    assert launched.wait() != 0
    assert sentence in launched.text, launched.text
    assert "process started" not in launched.text


def test_a_wrong_parameter_is_said(launch: Make) -> None:
    launched = launch("source:=radio")
    launched.says("got source 'radio'; wanted one of topic, camera, file")
    launched.says("process has died .*exit code 2")


def test_the_image_is_there_for_viewers(launch: Make, peer: Peer) -> None:
    launched = launch("source:=camera", f"device:={SYNTHETIC}")
    overlays = peer.collect(Image, "/segment/overlay")
    until(lambda: overlays, lambda: launched.text, 40)
    assert (overlays[0].width, overlays[0].encoding) == (160, "bgr8")
