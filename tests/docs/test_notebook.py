"""The example notebook runs, and its kept outputs are those of the code."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import nbformat
import pytest

SAMPLE = Path(__file__).resolve().parents[2] / "sample_data"


def words(notebook: Any) -> list[Any]:
    """Sources and outputs. Digits may differ from machine to machine."""
    found: list[Any] = []
    for cell in notebook.cells:
        outputs = [output.get("text") or output.get("data") for output in cell.get("outputs", ())]
        found.append((cell.source, re.sub(r"[\d.]+", "#", json.dumps(outputs, sort_keys=True))))
    return found


@pytest.mark.slow
def test_the_kept_outputs_are_those_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    kept = nbformat.read(SAMPLE / "example.ipynb", 4)
    executed = runpy.run_path(str(SAMPLE / "make_notebook.py"))["executed"]()
    assert words(executed) == words(kept)
    assert (SAMPLE / "example.ipynb").stat().st_size < 20_000
    assert "/site-packages" not in (SAMPLE / "example.ipynb").read_text()
