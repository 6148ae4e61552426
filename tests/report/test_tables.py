"""Tables keep their numbers whole where the terminal is narrow."""

from __future__ import annotations

import pytest
from rich import box
from rich.console import Console

from entangle_cli.report.tables import NARROWEST, empty_table

ROW = ("sigmoid", "-0.944", "-1.57 to +0.0382", "83 %", "+0.793")


@pytest.mark.parametrize("width", [20, 40, 60, NARROWEST, 200])
def test_no_number_is_cut(width: int) -> None:
    table = empty_table(box.SIMPLE_HEAD, "loss", "change of the chosen", "95 % interval", "falls", "cosine")
    table.add_row(*ROW)
    console = Console(width=width)
    with console.capture() as captured:
        console.print(table, crop=False)
    shown = captured.get()
    assert all(cell in shown for cell in ROW)
    assert max(map(len, shown.splitlines())) <= max(width, NARROWEST)
