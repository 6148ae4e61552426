"""`--ignore-file`: pairs that a gate leaves out, each for a reason and until a day.

[[ignore]]
pair = "0f3c..."            # pair_id
reason = "a paraphrase on purpose"
expires = 2027-01-31
"""

from __future__ import annotations

import errno
import tomllib
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entangle_cli.errors import UsageError

if TYPE_CHECKING:
    from entangle_cli.api.outcomes import Ignored


def read_ignore_file(path: Path, today: date) -> Ignored:
    """Read an ignore file.

    Raises:
        UsageError: not there, not TOML, or an entry without a pair, a reason or a day.
    """
    try:
        if not path.is_file():  # a pipe might never end
            raise OSError(errno.ENOENT, "no such file")
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"--ignore-file {path}: {error}", "a TOML file with [[ignore]] entries", "repair the file"
        ) from error
    entries = document.get("ignore")
    if not isinstance(entries, list) or document.keys() != {"ignore"} or not all(isinstance(e, dict) for e in entries):
        raise UsageError(
            f"--ignore-file {path}: {', '.join(document) or 'nothing'}",
            "[[ignore]] entries and nothing else",
            "write each entry under a line [[ignore]]",
        )
    for number, entry in enumerate(entries, start=1):
        _check(path, number, entry)
    from entangle_cli.api.outcomes import Ignored  # numpy, which reading options can do without

    return Ignored(
        path,
        frozenset(entry["pair"] for entry in entries if entry["expires"] >= today),
        sum(entry["expires"] < today for entry in entries),
    )


def _check(path: Path, number: int, entry: Any) -> None:
    wanted = {"pair": str, "reason": str, "expires": date}
    wrong = [name for name, kind in wanted.items() if not isinstance(entry.get(name), kind) or not entry[name]]
    unknown = sorted(entry.keys() - wanted.keys())
    if wrong or unknown or type(entry["expires"]) is not date:
        raise UsageError(
            f"--ignore-file {path}, entry {number}: {', '.join(wrong or unknown or ['expires'])}",
            'pair = "PAIR_ID", reason = "why" and expires = YEAR-MONTH-DAY',
            "give each entry all three",
        )
