"""Charts: labels that can be read, and lines that can be seen."""

from __future__ import annotations

import re

import pytest

from entangle_cli.report.line_chart import Line, Range, line_chart, tick_texts


@pytest.mark.parametrize(
    ("ticks", "texts"),
    [
        ([-1.767, 0.0, 1.153], ["-1.77", "0", "1.15"]),
        ([-1893.2, -1804.6], ["-1,893", "-1,805"]),
        ([0.78612, 0.78641], ["0.7861", "0.7864"]),
        ([0.5, 0.5], ["0.5", "0.5"]),
        ([], []),
    ],
)
def test_ticks_have_different_texts(ticks: list[float], texts: list[str]) -> None:
    assert tick_texts(ticks) == texts


def test_a_line_with_one_point_is_seen() -> None:
    chart = line_chart([Line("margin", "plain", [(4, 1.0)])], Range(0.0, 2.0), 4, "margin")
    ((x1, y1, x2, y2),) = re.findall(r'class="curve plain" d="M([\d.]+),([\d.]+)L([\d.]+),([\d.]+)"', chart)
    assert float(x2) - float(x1) == 6
    assert y1 == y2
