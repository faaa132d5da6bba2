import json
from pathlib import Path

import pytest
from plot_curve import draw

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "docs" / "results" / "training.json"
PICTURE = ROOT / "docs" / "images" / "fastinst-nano-training.svg"


def test_every_point_of_the_curve_is_drawn() -> None:
    rows = [
        {"minutes": k, "images_seen": 1000 * k, "raw_AP": 0.1, "raw_AP50": 0.5, "ema_AP": 0.2}
        for k in range(1, 5)
    ]
    text = draw({"variant": "nano", "device": "A CPU", "threads": 2, "curve": rows})
    lines = [line for line in text.splitlines() if line.startswith("<polyline")]
    assert len(lines) == 3
    assert all(line.split('"')[1].count(",") == 4 for line in lines)


@pytest.mark.parametrize("record", [RECORD], ids=["committed"])
def test_the_committed_picture_is_of_the_committed_record(record: Path) -> None:
    assert draw(json.loads(record.read_text())) == PICTURE.read_text()
