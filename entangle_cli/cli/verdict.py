"""A gate's verdict as an exit code, which nothing that happens while it is shown may hide."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from entangle_cli.api.outcomes import Outcome
from entangle_cli.cli.tell import tell
from entangle_cli.errors import EntangleError, ExitCode

CODES = {
    Outcome.PASSED: ExitCode.DONE,
    Outcome.FAILED: ExitCode.GATE_FAILED,
    Outcome.CANNOT_JUDGE: ExitCode.NOTHING_TO_JUDGE,
}
"""Exit codes of verdicts."""


@contextmanager
def keeping(code: ExitCode) -> Iterator[None]:
    """Show and write inside: what fails there is raised, unless the gate failed, which counts more.

    Raises:
        OSError, EntangleError: something cannot be shown or written, and the gate did not fail.
    """
    try:
        yield
    except (OSError, EntangleError) as error:
        if code is not ExitCode.GATE_FAILED:
            raise
        with suppress(OSError, ValueError):
            words = error.found if isinstance(error, EntangleError) else str(error)
            tell(f"{words}; the gate failed", prefix="error: ")
