"""One tree of errors, by what the user must change, and the exit code of each.

Every message has three parts: what was found and where, what was expected, what to do.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    GATE_FAILED = 1
    USAGE = 2
    INPUT = 3
    UNFINISHED = 4
    NOTHING_TO_JUDGE = 5
    INTERRUPTED = 130


EXIT_CODES = {
    ExitCode.DONE: "done, and passed if a gate ran",
    ExitCode.GATE_FAILED: "the gate failed; nothing else exits with 1",
    ExitCode.USAGE: "usage or configuration, also an output folder that holds another run",
    ExitCode.INPUT: "model, tokenizer, data or run cannot be used",
    ExitCode.UNFINISHED: "did not finish (out of memory, full disk, --deadline, crash); what was measured is kept",
    ExitCode.NOTHING_TO_JUDGE: "nothing to judge: no usable pair, too few, too many skipped, or an incomplete run",
    ExitCode.INTERRUPTED: "interrupted; the same scan command continues from there",
}
"""Exit codes in words."""


class EntangleError(Exception):
    """An error that the user can act on.

    Args:
        found: what was found, and where (file, line, row, parameter).
        expected: what was expected instead.
        remedy: what to do.
    """

    exit_code: ExitCode = ExitCode.UNFINISHED
    topic: str | None = None
    """The topic of the documentation that says more; None for a defect."""

    def __init__(self, found: str, expected: str, remedy: str) -> None:
        self.found, self.expected, self.remedy = map(_one_line, (found, expected, remedy))
        super().__init__(f"{self.found}\n  expected: {self.expected}\n  to do: {self.remedy}")


def _one_line(part: str) -> str:
    """A part that cannot begin a line of its own, whatever a data set's text in it says."""
    return part.replace("\r", "\\r").replace("\n", "\\n")


def unexpected(error: BaseException) -> tuple[str, str, str]:
    """The three parts of a message on an error that no code expects."""
    return (
        f"unexpected {type(error).__name__}: {error}".strip().splitlines()[0],
        "no such thing; this is a defect of entangle or of a library",
        "give the command again with --debug and report what it prints",
    )


class UsageError(EntangleError):
    """An option or a configuration value cannot be used."""

    exit_code = ExitCode.USAGE
    topic = "options"


class ModelError(EntangleError):
    """The checkpoint or its tokenizer cannot be used."""

    exit_code = ExitCode.INPUT
    topic = "data"


class DataError(EntangleError):
    """The data set cannot be used."""

    exit_code = ExitCode.INPUT
    topic = "data"


class RunError(EntangleError):
    """A run folder cannot be read, written or continued."""

    exit_code = ExitCode.INPUT
    topic = "reports"


class UnfinishedError(EntangleError):
    """The scan did not finish; what it measured is kept."""

    exit_code = ExitCode.UNFINISHED
    topic = "scale"


OUT_OF_MEMORY = (
    "failed to map segment",
    "Cannot allocate memory",
    "can't allocate memory",
    "can't start new thread",
    "Failed to launch worker thread",
)
"""Words of libraries for which the process may not have more memory, as under `ulimit -v`."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of a library says that there is no memory left."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def out_of_memory() -> UnfinishedError:
    """What is said where this machine has no memory left."""
    return UnfinishedError(
        "out of memory on this machine",
        "memory for the model and one batch",
        "close other programs, raise ulimit -v, or choose --dtype bfloat16 or a smaller --batch-tokens",
    )


class NothingToJudgeError(EntangleError):
    """No pair was measured, so that there is nothing to judge."""

    exit_code = ExitCode.NOTHING_TO_JUDGE
    topic = "ci"
