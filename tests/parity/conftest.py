"""Set-up of the parity tests."""

import pytest
import torch

collect_ignore_glob = ["data/*"]  # fill.py stands there twice; both are data, not tests


@pytest.fixture(autouse=True)
def two_threads():
    """As many as the fixtures were made with: another number sums in another order.

    Values move by 1e-4, gradients by 1e-3 (ReLU inputs that round to the other side of 0).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
