"""Status lines without a terminal."""

from __future__ import annotations

import pytest

from entangle_cli.cli import progress


def test_a_line_before_the_first_row_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PLAIN_LINE_SECONDS", 0.0)
    with progress.progress(10, 0, quiet=False) as advance:
        advance(num_rows=0)
        advance(num_rows=5)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("entangle: 0 of 10 rows, 0 rows/s")
    assert second.endswith("s left")
