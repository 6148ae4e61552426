"""The folder of a rehearsal: one folder per loss with its series of runs, and its log when it is finished."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from entangle_cli.errors import RunError, UsageError
from entangle_cli.store.files import LOCK_FILE, locked, reporting_failures, write_json
from entangle_cli.store.reading import RUNS_FOLDER

IDENTITY_FILE = "rehearsal.json"
LOG_FILE = "training.json"


def rehearsal_folder(identity: Mapping[str, Any]) -> Path:
    """The folder without --output. It depends on the identity, so the same command finds it again."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    names = (identity["model"]["name"], Path(identity["data"]["name"]).stem)
    words = "-".join(re.sub(r"[^\w.-]+", "-", str(name)).strip("-") for name in names)
    return RUNS_FOLDER / f"rehearsal-{words}-{digest}"


@contextmanager
def opened_folder(folder: Path, identity: Mapping[str, Any]) -> Iterator[None]:
    """Create the folder, or check that it holds this rehearsal. Inside the block no other process writes there.

    Raises:
        UsageError: it holds something else, or another process writes there.
        UnfinishedError: it cannot be written.
    """
    before, wanted = _read(folder / IDENTITY_FILE), json.loads(json.dumps(identity))
    if before is None and folder.exists() and any(path.name != LOCK_FILE for path in folder.iterdir()):
        raise UsageError(
            f"-o {folder}: the folder is not empty and holds no rehearsal",
            "a new or empty folder, or a rehearsal to continue",
            "choose another folder",
        )
    if before is not None and before != wanted:
        different = sorted(name for name in {**before, **wanted} if before.get(name) != wanted.get(name))
        raise UsageError(
            f"-o {folder}: holds a rehearsal with a different {', '.join(different) or 'version'}",
            "a rehearsal of the same model, data, settings and versions, or an empty folder",
            "choose another folder",
        )
    with reporting_failures(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = locked(folder)
    try:
        if before is None:
            with reporting_failures(folder):
                write_json(folder / IDENTITY_FILE, identity)
        yield
    finally:
        lock.release()


def finished_log(folder: Path, loss: str) -> dict[str, Any] | None:
    """The log of a loss that was rehearsed to its end; None for any other.

    Raises:
        RunError: the log is damaged.
    """
    path = folder / loss / LOG_FILE
    log = _read(path)
    if log is not None and not _is_log(log):
        raise _damaged(path, "not a log")
    return log


def _is_log(log: Mapping[str, Any]) -> bool:
    """Whether a stored log has the form of `finish_loss`. Files are untrusted input."""
    entries = log.get("log")
    return (
        isinstance(log.get("trainer"), str)
        and _is_number(log.get("seconds"))
        and isinstance(entries, list)
        and all(isinstance(entry, dict) and all(map(_is_number, entry.values())) for entry in entries)
        and all(isinstance(entry.get("step"), int) for entry in entries)
        and (log.get("probes") is None or _are_probes(log["probes"]))
    )


def _are_probes(probes: Any) -> bool:
    """Whether stored probe answers have the form that a rehearsal writes: at least one answer and one step."""
    steps, rows = (probes.get(name) for name in ("steps", "rows")) if isinstance(probes, dict) else (None, None)
    return (
        isinstance(steps, list)
        and isinstance(rows, list)
        and bool(steps and rows)
        and all(isinstance(step, int) for step in steps)
        and all(isinstance(row, dict) and _is_probe(row, len(steps)) for row in rows)
    )


def _is_probe(row: Mapping[str, Any], num_steps: int) -> bool:
    places, log_probs = [row.get(name) for name in ("index", "line", "tokens")], row.get("log_probs")
    return (
        all(map(_is_number, places))
        and isinstance(row.get("tokens"), int)
        and row["tokens"] > 0
        and isinstance(row.get("group"), str)
        and isinstance(row.get("answer_is_own"), bool)
        and isinstance(row.get("file"), str | None)
        and isinstance(log_probs, list)
        and len(log_probs) == num_steps
        and all(map(_is_number, log_probs))
    )


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number or null."""
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


def begin_loss(folder: Path, loss: str) -> Path:
    """An empty folder for a loss. What an interrupted rehearsal left there is removed."""
    with reporting_failures(folder):
        if (folder / loss).exists():
            shutil.rmtree(folder / loss)
        (folder / loss).mkdir()
    return folder / loss


def finish_loss(folder: Path, loss: str, log: Mapping[str, Any]) -> None:
    """Write the log of a loss. From now on it is finished.

    Args:
        log: `trainer`, TRL's class; `log`, numbers by step; `seconds`; perhaps `probes`, log-probs of probe answers.
    Raises:
        UnfinishedError: it cannot be written.
    """
    with reporting_failures(folder):
        write_json(folder / loss / LOG_FILE, log)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise UsageError(f"{path.parent}: not a folder", "a folder", "choose another folder") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(document, dict):
        raise _damaged(path, "not an object")
    return document


def _damaged(path: Path, problem: str) -> RunError:
    return RunError(f"{path}: {problem}", "a file written by entangle rehearse", "give a new folder: -o FOLDER")
