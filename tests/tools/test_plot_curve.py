import json
from pathlib import Path

import pytest
from plot_curve import DOCS, draw, main

from edgeseg.bundle import packaged

ROWS = [
    {"minutes": k, "images_seen": 1000 * k, "raw_AP": 0.1, "raw_AP50": 0.5, "ema_AP": 0.2}
    for k in range(1, 5)
]
RUN = {"variant": "nano", "device": "A CPU", "threads": 2, "curve": ROWS}


def test_every_point_of_the_curve_is_drawn() -> None:
    text = draw({"model": "net", **RUN})
    lines = [line for line in text.splitlines() if line.startswith("<polyline")]
    assert len(lines) == 3
    assert all(line.split('"')[1].count(",") == 4 for line in lines)


def test_a_run_becomes_a_record_with_a_sentence_and_a_picture(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for folder in (run, tmp_path / "results", tmp_path / "images"):
        folder.mkdir()
    (run / "curve.json").write_text(json.dumps(RUN))
    main(["net", "--run", str(run), "--note", "Beside other work.", "--docs", str(tmp_path)])
    record = json.loads((tmp_path / "results" / "training_net.json").read_text())
    assert record == {"model": "net", **RUN, "note": "Beside other work."}
    assert ">net: COCO mask AP" in (tmp_path / "images" / "net-training.svg").read_text()


@pytest.mark.parametrize("name", packaged())
def test_the_committed_picture_is_of_the_committed_record(name: str) -> None:
    record = json.loads((DOCS / "results" / f"training_{name}.json").read_text())
    assert draw(record) == (DOCS / "images" / f"{name}-training.svg").read_text()
