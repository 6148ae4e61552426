"""The use cases, one function each. They report progress to an observer and print nothing.

Heavy libraries are imported only when a call needs them.
"""

from entangle_cli.api.comparing import compare
from entangle_cli.api.filtering import check_filter_rules, filter_rows
from entangle_cli.api.forecasting import forecast
from entangle_cli.api.inspecting import inspect
from entangle_cli.api.judging import gate, parsed_rules, refuse_without_baseline
from entangle_cli.api.rehearsing import customary_loss, parsed_rehearsal_rule, rehearse
from entangle_cli.api.run import Run, check_loss, merge_runs, newest_folder, read
from entangle_cli.api.scanning import scan
from entangle_cli.api.token_products import tokens

__all__ = [
    "Run",
    "check_filter_rules",
    "check_loss",
    "compare",
    "customary_loss",
    "filter_rows",
    "forecast",
    "gate",
    "inspect",
    "merge_runs",
    "newest_folder",
    "parsed_rehearsal_rule",
    "parsed_rules",
    "read",
    "refuse_without_baseline",
    "rehearse",
    "scan",
    "tokens",
]
