"""The folder of a rehearsal: one folder per loss with its series of runs, and its log when it is finished."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from entangle_cli.errors import RunError, UsageError
from entangle_cli.store.files import reporting_failures, write_json
from entangle_cli.store.reading import RUNS_FOLDER

IDENTITY_FILE = "rehearsal.json"
LOG_FILE = "training.json"


def rehearsal_folder(identity: Mapping[str, Any]) -> Path:
    """The folder without --output. It depends on the identity, so the same command finds it again."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    names = (identity["model"]["name"], Path(identity["data"]["name"]).stem)
    words = "-".join(re.sub(r"[^\w.-]+", "-", str(name)).strip("-") for name in names)
    return RUNS_FOLDER / f"rehearsal-{words}-{digest}"


def open_rehearsal_folder(folder: Path, identity: Mapping[str, Any]) -> None:
    """Create the folder, or check that it holds this rehearsal.

    Raises:
        UsageError: it holds something else.
        UnfinishedError: it cannot be written.
    """
    before = _read(folder / IDENTITY_FILE)
    if before is None and folder.exists() and any(folder.iterdir()):
        raise UsageError(
            f"-o {folder}: the folder is not empty and holds no rehearsal",
            "a new or empty folder, or a rehearsal to continue",
            "choose another folder",
        )
    if before is not None and before != json.loads(json.dumps(identity)):
        different = sorted(name for name in identity if before.get(name) != json.loads(json.dumps(identity[name])))
        raise UsageError(
            f"-o {folder}: holds a rehearsal with a different {', '.join(different)}",
            "a rehearsal of the same model, data, settings and versions, or an empty folder",
            "choose another folder",
        )
    if before is None:
        with reporting_failures(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / IDENTITY_FILE, identity)


def finished_log(folder: Path, loss: str) -> dict[str, Any] | None:
    """The log of a loss that was rehearsed to its end; None for any other."""
    return _read(folder / loss / LOG_FILE)


def begin_loss(folder: Path, loss: str) -> Path:
    """An empty folder for a loss. What an interrupted rehearsal left there is removed."""
    with reporting_failures(folder):
        if (folder / loss).exists():
            shutil.rmtree(folder / loss)
        (folder / loss).mkdir()
    return folder / loss


def finish_loss(folder: Path, loss: str, log: Mapping[str, Any]) -> None:
    """Write the log of a loss. From now on it is finished.

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
        raise RunError(
            f"{path}: {error}", "a file written by entangle rehearse", "rehearse into a new folder"
        ) from error
    if not isinstance(document, dict):
        raise RunError(f"{path}: no object", "a file written by entangle rehearse", "rehearse into a new folder")
    return document
