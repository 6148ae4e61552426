"""Errors, grouped by what the user must change, each with its exit code.

Every message has three parts: what was found and where, what was expected, and what to do next.
"""

from __future__ import annotations

from enum import IntEnum
from functools import partial
from typing import Any


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
    ExitCode.USAGE: "invalid usage or configuration, or the output folder holds another run",
    ExitCode.INPUT: "the model, tokenizer, data or run cannot be used",
    ExitCode.UNFINISHED: "did not finish (out of memory, full disk, --deadline, crash); measured rows are kept",
    ExitCode.NOTHING_TO_JUDGE: "nothing to judge: no usable pair, too few, too many skipped, or an incomplete run",
    ExitCode.INTERRUPTED: "interrupted; rerun the same scan command to continue",
}
"""The meaning of each exit code."""


class EntangleError(Exception):
    """An error that the user can fix.

    Args:
        found: what was found, and where (file, line, row, parameter).
        expected: what was expected instead.
        remedy: what to do.
        topic: the topic of the documentation that says more; None for that of the kind of error.
    """

    exit_code: ExitCode = ExitCode.UNFINISHED
    topic: str | None = None
    """The topic of the documentation that says more; None for a defect."""

    def __init__(self, found: str, expected: str, remedy: str, *, topic: str | None = None) -> None:
        self.found, self.expected, self.remedy = map(_one_line, (found, expected, remedy))
        self.topic = topic or self.topic
        super().__init__(f"{self.found}\n  expected: {self.expected}\n  to do: {self.remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle: an error of a worker is raised again in the main process."""
        return partial(type(self), topic=self.topic), (self.found, self.expected, self.remedy)


def _one_line(part: str) -> str:
    """Escape line breaks. Text from a data set must not start a new line of the message."""
    return part.replace("\r", "\\r").replace("\n", "\\n")


def unexpected(error: BaseException) -> tuple[str, str, str]:
    """The three parts of the message for an unexpected error."""
    return (
        f"unexpected {type(error).__name__}: {error}".strip().splitlines()[0],
        "no error; this is a bug in entangle or in a library",
        "rerun the command with --debug and report the output",
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
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "HIP out of memory",
    "HIP error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)
"""Library messages for a process that cannot get more memory, on the host (for example under `ulimit -v`) or on a GPU.

Only some failures of a GPU are a `torch.OutOfMemoryError`. The driver, cuBLAS and cuDNN raise a RuntimeError.
"""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library error means that memory has run out, on the host or a device."""
    # By name: `entangle gate` starts without torch.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(words in str(error) for words in OUT_OF_MEMORY)


def out_of_memory() -> UnfinishedError:
    """The error for a machine without free memory."""
    return UnfinishedError(
        "out of memory on this machine",
        "enough memory for the model and one batch",
        "close other programs, raise ulimit -v, or use --dtype bfloat16 or a smaller --batch-tokens",
    )


class NothingToJudgeError(EntangleError):
    """No pair was measured, so there is nothing to judge."""

    exit_code = ExitCode.NOTHING_TO_JUDGE
    topic = "ci"
