"""The deaths of workers, in words."""

from __future__ import annotations


def reason_of(error: Exception) -> str:
    """Why a worker died, in a few words. Ray's own text has many lines."""
    import ray

    if isinstance(error, ray.exceptions.RayTaskError):
        cause = error.cause if isinstance(error.cause, BaseException) else error
        return f"unexpected {type(cause).__name__}: {cause}".splitlines()[0]
    text = str(error).strip()
    if "creation task" in text:  # for example, entangle is not installed there
        return text.splitlines()[-1]
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "the machine ran out of memory"
    if isinstance(error, ray.exceptions.NodeDiedError):
        return "the machine is gone"
    return "the process crashed, was killed, or lost its machine"
