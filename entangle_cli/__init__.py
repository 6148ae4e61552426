"""Gradient entanglement of preference pairs on a causal LM, measured before training.

`scan` measures, `read` reads what was measured; both give a `Run`. Nothing here prints.
"""

import sys

# `python -m entangle_cli` puts the working directory in front, where a stranger's dataclasses.py would be imported.
# While Python looks for the package argv[0] is "-m". No import may stand before this, not even that of __future__.
if sys.argv[:1] == ["-m"] and "entangle_cli" in sys.orig_argv and not sys.flags.safe_path:
    del sys.path[0]

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from entangle_cli.api import Run, compare, filter_rows, forecast, gate, inspect, read, rehearse, scan, tokens
    from entangle_cli.api.training import EntangleCallback
    from entangle_cli.errors import EntangleError
    from entangle_cli.records.pair import PairRecord
    from entangle_cli.records.settings import (
        FilterRules,
        ForecastSettings,
        LoadingSettings,
        LoraSettings,
        LossSettings,
        ReadingSettings,
        RehearsalSettings,
        ScanSettings,
        UntilDecided,
        WorkerSettings,
    )

__version__ = "0.10.0"
__all__ = [
    "EntangleCallback",
    "EntangleError",
    "FilterRules",
    "ForecastSettings",
    "LoadingSettings",
    "LoraSettings",
    "LossSettings",
    "PairRecord",
    "ReadingSettings",
    "RehearsalSettings",
    "Run",
    "ScanSettings",
    "UntilDecided",
    "WorkerSettings",
    "__version__",
    "compare",
    "filter_rows",
    "forecast",
    "gate",
    "inspect",
    "read",
    "rehearse",
    "scan",
    "tokens",
]

_MODULE_OF = {
    **dict.fromkeys(
        ("Run", "compare", "filter_rows", "forecast", "gate", "inspect", "read", "rehearse", "scan", "tokens"),
        "entangle_cli.api",
    ),
    "EntangleCallback": "entangle_cli.api.training",
    "EntangleError": "entangle_cli.errors",
    "PairRecord": "entangle_cli.records.pair",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is asked for: the commands start faster without the others."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF.get(name, "entangle_cli.records.settings")), name)
