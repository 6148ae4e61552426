"""A series of runs in one folder, one per step of a training: `step-000050`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from entangle_cli.records.pair import PairRecord
from entangle_cli.records.run import Identity
from entangle_cli.store.files import reporting_failures
from entangle_cli.store.writing import RunWriter

STEP = re.compile(r"step-(\d+)")


def runs_in(series: Path) -> dict[int, Path]:
    """The runs of a series by step, in order."""
    folders = {int(match[1]): path for path in series.glob("step-*") if (match := STEP.fullmatch(path.name))}
    return {step: folders[step] for step in sorted(folders)}


def series_folder(wanted: Path, *, is_resumed: bool) -> Path:
    """The folder of a training's series: `wanted`, or with a number if an earlier training wrote there.

    A resumed training goes on in the newest one.
    """
    names = (wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}") for number in count(1))
    used: list[Path] = []
    for folder in names:
        if not runs_in(folder):
            return used[-1] if is_resumed and used else folder
        used.append(folder)
    raise AssertionError("an endless list of names ended")


def write_point(
    series: Path, step: int, identity: Identity, about: Mapping[str, Any], records: Sequence[PairRecord]
) -> Path:
    """Write the run of a step. A run of the same step is replaced: the training went back before it.

    Returns:
        The run's folder.
    Raises:
        UsageError: the folder is not writable.
        UnfinishedError: the run cannot be written, for example on a full disk.
    """
    folder = series / f"step-{step:06d}"
    with reporting_failures(folder):
        if folder.exists():
            shutil.rmtree(folder)
    with RunWriter.open(folder, identity, about) as writer:
        writer.add(records)
    return folder
