"""Windows of loss weights in which pairs separate, and the value inside the most windows.

With r = d_c / d_r > 0, a pair separates if P/A < r < B/P, and for every r if P <= 0 (conditions of arXiv 2410.13828,
solved for the ratio). A weight that changes r can move a pair into its window or out of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from entangle_cli.analysis.movement import Geometry
from entangle_cli.records.arrays import Floats


class Windows(NamedTuple):
    """Open interval of a weight in which each pair separates, [pairs]; NaN if undefined."""

    low: Floats
    high: Floats


class BestValue(NamedTuple):
    """The weights at which most pairs separate: any value between `low` and `high`."""

    low: float
    high: float
    """Infinite if there is no upper end."""
    pairs: int
    """Pairs that separate with these weights."""


@np.errstate(divide="ignore", invalid="ignore")
def ratio_windows(geometry: Geometry) -> Windows:
    """Windows of the ratio d_c / d_r, for positive coefficients."""
    chosen, rejected, inner = geometry.chosen_squared_norm, geometry.rejected_squared_norm, geometry.inner_product
    entangled, defined = inner > 0, np.isfinite(chosen + rejected + inner) & (chosen > 0) & (rejected > 0)
    low = np.where(entangled, inner / chosen, 0.0)
    high = np.where(entangled, rejected / inner, np.inf)
    return Windows(np.where(defined, low, np.nan), np.where(defined, high, np.nan))


def penalty_windows(ratios: Windows) -> Windows:
    """Windows of DPO-Positive's lambda, if the chosen answer is below its reference: d_c / d_r = 1 + lambda."""
    return Windows(ratios.low - 1.0, ratios.high - 1.0)


def likelihood_windows(ratios: Windows, push: Floats, chosen_length: Floats) -> Windows:
    """Windows of the weight of -z_c/n_c, added to a loss with equal coefficients: d_c / d_r = 1 + weight/(push n_c).

    Args:
        push: coefficient of that loss, above 0, [pairs].
        chosen_length: tokens of the chosen answer, [pairs].
    """
    scale = push * chosen_length
    return Windows((ratios.low - 1.0) * scale, (ratios.high - 1.0) * scale)


@np.errstate(divide="ignore")
def shift_windows(ratios: Windows) -> Windows:
    """Windows of DPO-Shift's factor on the rejected answer: d_c / d_r = 1 / factor."""
    return Windows(1.0 / ratios.high, 1.0 / ratios.low)


def best_value(windows: Windows, least: float = 0.0) -> BestValue | None:
    """The values of at least `least` that lie in the most windows. Of several equal ranges, returns the lowest.

    Returns:
        None if no window extends above `least`.
    Cost: O(pairs log pairs).
    """
    reaching = (windows.high > least) & (windows.high > windows.low)
    if not reaching.any():
        return None
    lows = np.sort(np.maximum(windows.low[reaching], least))
    highs = np.sort(windows.high[reaching])
    # Windows are open. Just above a low end, count the windows that start at or below it and have not ended.
    counts = np.arange(1, len(lows) + 1) - np.searchsorted(highs, lows, side="right")
    is_last = np.append(lows[1:] != lows[:-1], True)
    best = int(np.argmax(np.where(is_last, counts, -1)))
    end = highs[np.searchsorted(highs, lows[best], side="right")]
    next_low = lows[best + 1] if best + 1 < len(lows) else np.inf
    return BestValue(float(lows[best]), float(min(end, next_low)), int(counts[best]))
