"""What a name in the output means, and the documentation by topic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from entangle_cli.diagnose.views.explaining import Explanation


def explain(name: str) -> Sequence[Explanation]:
    """Everything that a name stands for: a warning, a field, a loss, a metric, a reason, an exit code or a word.

    Raises:
        UsageError: nothing; it suggests names that are near.
    """
    from entangle_cli.diagnose.views import explaining

    return explaining.explain(name)


def topics() -> list[str]:
    """The topics of the documentation."""
    from entangle_cli.diagnose.views import explaining

    return explaining.topics()


def topic_text(name: str) -> str:
    """A topic as Markdown."""
    from entangle_cli.diagnose.views import explaining

    return explaining.topic_text(name)
