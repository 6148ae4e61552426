"""Checks of the first rows before a scan starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from entangle_cli.data.pairs import PairReader
from entangle_cli.data.sources import open_source
from entangle_cli.diagnose.views.first_rows import peeked_formats
from entangle_cli.errors import DataError
from entangle_cli.records.settings import ReadingSettings


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ('{"prompt": 1\n', "copied completely"),
        ("1\n2\n", "copied completely"),
        ('{"question": "q", "good": "a", "bad": "b"}\n', "--map chosen=good"),
    ],
)
def test_only_rows_with_columns_suggest_a_map(tmp_path: Path, content: str, remedy: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError, match=remedy) as refused:
        peeked_formats(open_source(str(tmp_path / "a.jsonl")), PairReader(), ReadingSettings())
    assert ("--map" in str(refused.value)) == ("--map" in remedy)
