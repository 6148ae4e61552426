"""Warnings of other commands as findings of the doctor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from entangle_cli.records.finding import Finding, Severity

NOTES = {
    *("W-TRANSCRIPT", "W-SHARED-WORDS", "W-BOUNDARY", "W-TEMPLATE-DATE", "W-ROUTER-LOSS", "W-DEQUANTISED"),
    "W-PLANNED-ADAPTER",
}
"""Warnings of other commands that no training has to heed."""


def noticed(notice: Mapping[str, Any]) -> Finding:
    """A notice of an inspection, with its number of rows."""
    count = notice["count"]
    return warning(notice["code"], notice["message"] if count == 1 else f"{notice['message']} ({count:,} rows)")


def warning(code: str, message: str) -> Finding:
    """A warning of other commands as a finding."""
    severity = Severity.NOTE if code in NOTES else Severity.WARNING
    return Finding(code, severity, message, f"see entangle explain {code}")
