"""The fake engine finds what was drawn, where it was drawn."""

from __future__ import annotations

import numpy as np

from edgeseg.engines.fake import FakeEngine, fake_spec


def test_bright_regions_become_instances_largest_first() -> None:
    engine = FakeEngine(fake_spec((120, 160)))
    engine.input[0, 8:24, 8:24] = (0, 0, 200)
    engine.input[0, 40:100, 60:140] = (30, 220, 30)
    engine.input[0, 60:80, 0:20] = (127, 127, 127)
    outputs = engine.run()
    np.testing.assert_allclose(outputs["scores"][:3], [0.95, 0.94, 0.0])
    np.testing.assert_array_equal(outputs["labels"][:2], [1, 2])
    wanted = np.zeros((30, 40), bool)
    wanted[10:25, 15:35] = True
    np.testing.assert_array_equal(outputs["masks"][0] > 0, wanted)
    assert (outputs["masks"][2:] < 0).all()


def test_a_dark_picture_is_empty_again() -> None:
    engine = FakeEngine(fake_spec())
    engine.input[...] = 255
    assert engine.run()["scores"].max() > 0.9
    engine.input[...] = 0
    outputs = engine.run()
    assert not outputs["scores"].any()
    assert (outputs["masks"] < 0).all()


def test_more_regions_than_rows_keep_the_largest() -> None:
    engine = FakeEngine(fake_spec((80, 80), max_instances=2))
    for number, size in enumerate((4, 12, 8)):
        engine.input[0, 24 * number : 24 * number + size, :size] = 255
    outputs = engine.run()
    assert outputs["scores"].shape == (2,)
    np.testing.assert_array_equal((outputs["masks"] > 0).sum((1, 2)), [9, 4])
