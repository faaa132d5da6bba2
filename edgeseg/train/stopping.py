"""Early stopping: when validation AP no longer rises, the schedule's last fifth begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

RISE = 0.003
LAST_SHARE = 0.2


def shortened(curve: Sequence[Mapping[str, Any]], budget_s: float, patience: int) -> float:
    """The time budget, shortened where the curve has gone flat.

    The learning rate follows the share of the budget that is used. A run that ended where it went
    flat would miss what the fall of the learning rate brings; so the budget shrinks to 1.25 times
    what was used until then, and the rate falls to nearly zero in the time that is left.

    Args:
        curve: rows with ``minutes raw_AP ema_AP``, oldest first.
        budget_s: seconds of training that were allowed.
        patience: rows without a rise of at least `RISE` that make it flat; 0 is never.

    >>> rows = [{"minutes": k, "raw_AP": 0.5, "ema_AP": 0.1} for k in range(1, 9)]
    >>> shortened(rows, 3600, 3)
    300.0
    """
    best, since = -1.0, 0
    for row in curve if patience else ():
        value = max(row["raw_AP"], row["ema_AP"])
        since = 0 if value >= best + RISE else since + 1
        best = max(best, value) if since == 0 else best
        if since == patience:
            return float(min(budget_s, 60 * row["minutes"] / (1 - LAST_SHARE)))
    return budget_s
