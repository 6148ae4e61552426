"""The array type shared between folders. No other module in this folder imports numpy."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
"""A float64 array of any shape."""
