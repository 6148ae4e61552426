"""The array type shared between folders, and its numbers as plain data. No other module here imports numpy."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
"""A float64 array of any shape."""


def finite(value: Any) -> float | None:
    """A number for JSON; None for NaN and infinity."""
    return float(value) if np.isfinite(value) else None
