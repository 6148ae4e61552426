"""Explains names in the output, and gives access to the documentation topics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from entangle_cli.diagnose.views.explaining import Explanation


def explain(name: str) -> Sequence[Explanation]:
    """All meanings of a name: warning, field, loss, metric, reason, exit code or glossary word.

    Raises:
        UsageError: the name is unknown; the error suggests similar names.
    """
    from entangle_cli.diagnose.views import explaining

    return explaining.explain(name)


def topics() -> list[str]:
    """Names of the documentation topics."""
    from entangle_cli.diagnose.views import explaining

    return explaining.topics()


def topic_text(name: str) -> str:
    """The text of a documentation topic, as Markdown."""
    from entangle_cli.diagnose.views import explaining

    return explaining.topic_text(name)
