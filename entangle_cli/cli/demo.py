"""`entangle demo`: one minute from nothing, on the data and the model that come with the package."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from entangle_cli.cli.deadline import Deadline
from entangle_cli.cli.json_file import write_file
from entangle_cli.cli.options import Debug
from entangle_cli.records.settings import ReportFormat, ScanSettings


def demo(
    *,
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Folder to make.")] = Path("entangle-demo"),
    debug: Debug = False,
) -> None:
    """Copy sample data and a small model, scan them, and write a page."""
    from entangle_cli import api
    from entangle_cli.api import scanning
    from entangle_cli.cli.scan_display import ScanDisplay
    from entangle_cli.report.consoles import show

    model, data = scanning.copy_sample(folder)
    settings = ScanSettings(include_text=True)
    display = ScanDisplay(Deadline(None), quiet=False)
    place, _ = scanning.scan_into_run(str(model), str(data), settings, folder / "run", display)
    run = api.read(place)
    scanning.write_summary(run)
    page = folder / "report.html"
    write_file(page, partial(run.write_report, output_format=ReportFormat.HTML.value))
    show(sys.stdout, run.rendered())
    (worst,) = run.worst_rows(1)
    steps = {
        f"entangle show {quote(str(place))} --line {worst['line']}": "one pair, with its text",
        f"entangle report {quote(str(place))} --losses": "the same pairs under every loss",
        "entangle scan path/to/checkpoint pairs.jsonl": "your own",
    }
    width = max(map(len, steps))
    lines = [f"  {command.ljust(width)}   {words}" for command, words in steps.items()]
    print("\n".join(["", f"The page: {page.resolve()}", "", "Next:", *lines]))
