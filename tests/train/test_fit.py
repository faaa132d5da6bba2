"""Pictures of any size: training and validation see what the robot sees."""

import json

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgeseg.frame import Frame  # noqa: E402
from edgeseg.preprocess import preprocess  # noqa: E402
from edgeseg.segmenter import Segmenter  # noqa: E402
from edgeseg.train import fit  # noqa: E402
from edgeseg.train.data import CocoDataset  # noqa: E402
from edgeseg.train.fit import Fitted  # noqa: E402
from edgeseg.train.measure import (  # noqa: E402
    TrainingEngine,
    mask_ap,
    read_frame,
    spec_of,
    validate,
)
from edgeseg.zoo.fastinst import VARIANTS, FastInst  # noqa: E402

INPUT_HW = (96, 128)
CLASSES = ("square", "disc")
SPEC = spec_of(FastInst(VARIANTS["nano"]), CLASSES, INPUT_HW)


@pytest.fixture(params=[(300, 500), (300, 200), (50, 70), (96, 128)], ids=str)
def odd(request, tmp_path):
    """One picture of an odd size with a square and a disc, as polygons."""
    height, width = request.param
    (tmp_path / "images").mkdir()
    picture = np.full((height, width, 3), 30, np.uint8)
    side = min(height, width) // 3
    square = [4, 4, 4 + side, 4, 4 + side, 4 + side, 4, 4 + side]
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    centre = np.array([width - side / 2 - 5, height - side / 2 - 5])
    disc = (centre + side / 2 * np.stack([np.cos(angles), np.sin(angles)], 1)).ravel().tolist()
    for outline, colour in ((square, (200, 220, 240)), (disc, (120, 250, 130))):
        cv2.fillPoly(picture, [np.array(outline, np.int32).reshape(-1, 2)], colour)
    cv2.imwrite(str(tmp_path / "images" / "a.png"), picture)
    table = {
        "images": [{"id": 5, "file_name": "a.png", "height": height, "width": width}],
        "categories": [{"id": 1, "name": "square"}, {"id": 2, "name": "disc"}],
        "annotations": [
            {"id": k, "image_id": 5, "category_id": k, "segmentation": [outline]}
            for k, outline in ((1, square), (2, disc))
        ],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(table))
    return CocoDataset(tmp_path)


def test_training_sees_the_pixels_of_the_robots_letterbox(odd):
    picture, labels, masks = Fitted(odd, SPEC)[0]
    network_input = np.zeros((1, *INPUT_HW, 3), np.uint8)
    frame = Frame(cv2.imread(str(odd.path(0))), "bgr8")
    height, width = preprocess(frame, SPEC, network_input).scaled_hw
    assert np.array_equal(picture, network_input[0, :height, :width])
    assert height == INPUT_HW[0] or width == INPUT_HW[1]
    assert labels.tolist() == [0, 1] and masks.shape == (2, height, width)
    for mask, colour in zip(masks, [(240, 220, 200), (130, 250, 120)], strict=True):
        inside = picture[cv2.erode(mask, np.ones((3, 3))) > 0].astype(int)
        assert len(inside) and (np.abs(inside - colour) < 60).all(1).mean() > 0.95


@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_what_is_kept_is_what_was_read(odd, monkeypatch, memory):
    monkeypatch.setattr(fit, "memory_bytes", lambda: memory)
    fitted = Fitted(odd, SPEC)
    first, second = fitted[0], fitted[0]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


class Oracle(torch.nn.Module):
    """Finds the letterboxed square and disc by their colours, and no padding."""

    def forward(self, image):
        picture = image[0].float()
        masks = torch.full((SPEC.max_instances, *SPEC.mask_hw), -9.0)
        for k, colour in enumerate([(240.0, 220.0, 200.0), (130.0, 250.0, 120.0)]):
            far = (picture - torch.tensor(colour)).abs().amax(-1)
            near = (far < 60).float()[None]
            masks[k] = torch.nn.functional.avg_pool2d(near, SPEC.mask_stride)[0] - 0.5
        scores, labels = torch.zeros(len(masks)), torch.zeros(len(masks), dtype=torch.int32)
        scores[:2], labels[1] = 0.9, 1
        return scores, labels, masks


def test_validation_goes_through_the_robots_letterbox_and_back(odd):
    """AP50 of 1 needs masks in the pixels of the picture, whatever its size."""
    engine = TrainingEngine(Oracle(), SPEC, torch.device("cpu"))
    result = mask_ap(Segmenter(engine, score_threshold=0), odd)
    assert result["AP50"] == pytest.approx(1.0)
    assert result["instances"] == 2


def test_a_network_in_training_is_validated_on_odd_sizes(odd):
    network = FastInst(VARIANTS["nano"]).train()
    result = validate(network, odd, 1, (240, 320))
    assert network.training and 0 <= result["AP"] <= 1


def test_a_grey_picture_is_read_as_by_the_robot(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((20, 30), 77, np.uint8))
    assert read_frame(tmp_path / "grey.png").format == "mono8"
