"""Status lines on standard error."""

from __future__ import annotations

import sys

from entangle_cli.report.escape import for_terminal


def tell(words: str, *, prefix: str = "entangle: ") -> None:
    """Print one line for people, whatever characters a path or a text in it has."""
    print(f"{prefix}{for_terminal(words)}", file=sys.stderr, flush=True)
