"""Data sets and checkpoints on the hub: one request checks that they exist, and the hub's libraries read them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from entangle_cli.data.arrow_files import ArrowFile
from entangle_cli.data.rows import RawRow, RowSource
from entangle_cli.data.splits import chosen_split
from entangle_cli.errors import DataError, ModelError
from entangle_cli.records.settings import ReadingSettings

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SECONDS = 10
"""Timeout for a hub request. The hub's libraries would retry for half a minute."""


def is_hub_name(name: str) -> bool:
    """Whether a name has the form of a hub name, `organisation/name`. Paths never do."""
    return HUB_NAME.fullmatch(name) is not None


class _Unreachable(Exception):
    """The hub did not answer."""


class _Absent(Exception):
    """The hub answered that the name does not exist or is not accessible."""


def _ask(kind: str, name: str, revision: str | None) -> str:
    """The current commit of a name and revision on the hub.

    Raises:
        _Absent: the hub has no such name, or denies access.
        _Unreachable: the hub does not answer, or has a server error.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    api = huggingface_hub.HfApi()
    request_info = api.dataset_info if kind == "data set" else api.model_info
    try:
        return str(request_info(name, revision=revision, timeout=SECONDS).sha)
    except HfHubHTTPError as error:
        last_line = str(error).strip().splitlines()[-1]
        if error.response is not None and error.response.status_code >= 500:
            raise _Unreachable(last_line) from error  # a server error does not mean 'not found'
        raise _Absent(last_line) from error
    except Exception as error:  # the exception type depends on the HTTP library of the hub's client
        raise _Unreachable(str(error).strip() or type(error).__name__) from error


def is_only_cached(name: str, revision: str | None) -> bool:
    """Whether the hub does not answer and the checkpoint must come from the cache.

    Raises:
        ModelError: the hub has no such checkpoint, or it does not answer and the cache has none either.
    """
    try:
        _ask("checkpoint", name, revision)
    except (_Absent, _Unreachable) as error:
        if isinstance(error, _Unreachable) and cached_commit(name, revision) is not None:
            return True
        is_absent = isinstance(error, _Absent)
        problem = "not accessible on the hub" if is_absent else "not in the cache, and the hub cannot be reached"
        raise ModelError(
            f"{name} is not a local folder and {problem}: {error}",
            "a checkpoint folder, or the name of a checkpoint on the hub",
            "check the name, --model-revision, the network and your login (hf auth login)",
        ) from error
    return False


def cached_commit(name: str, revision: str | None) -> str | None:
    """The commit of a cached hub checkpoint; None if the cache has none."""
    import huggingface_hub

    for file in ("config.json", "adapter_config.json"):
        path = huggingface_hub.try_to_load_from_cache(name, file, revision=revision)
        if isinstance(path, str):
            return Path(path).parent.name  # snapshots/COMMIT/config.json
    return None


def adapter_folder(name: str, revision: str | None, *, local_only: bool) -> Path | None:
    """Download the adapter of a hub name and return its folder; None for a whole checkpoint.

    Raises:
        ModelError: the adapter cannot be downloaded.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        huggingface_hub.hf_hub_download(name, "adapter_config.json", revision=revision, local_files_only=local_only)
        return Path(huggingface_hub.snapshot_download(name, revision=revision, local_files_only=local_only))
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None
    except Exception as error:  # the exception type depends on the HTTP library of the hub's client
        raise ModelError(
            f"{name}: the adapter cannot be downloaded: {_first_line(error)}",
            "a reachable hub",
            "check the network, then rerun the command",
        ) from error


class HubDataset(RowSource):
    """One split of a data set on the hub.

    Attributes:
        dataset: the `datasets.Dataset`, or an `IterableDataset` if there is a limit.

    Args:
        split: split without a slice; None if the data set has only one.
        limit: maximum number of rows to read from the start. They are streamed, so nothing else is downloaded.
    Raises:
        DataError: the data set, its config or its split does not exist, it has several splits and none was chosen, or
            the hub is not reachable.
    """

    kind = "hub data set"

    def __init__(self, name: str, split: str | None, reading: ReadingSettings, limit: int | None) -> None:
        self.location = name
        self.name = name
        try:
            commit: str | None = _ask("data set", name, reading.revision)
        except _Absent as error:
            raise _refused(name, f"is not a local file and not accessible on the hub: {error}") from error
        except _Unreachable as error:
            _refuse_uncached(name, error)
            commit = None
        with _translated(name), offline(commit is None):
            self.dataset, split = _loaded(name, split, reading, commit, limit)
        for cached in getattr(self.dataset, "cache_files", None) or ():
            ArrowFile(Path(cached["filename"])).refuse_damaged()
        self.num_rows = len(self.dataset) if limit is None else _rows_within(self.dataset, limit)
        self._limit = limit
        self._identity = {
            "name": name,
            "commit": commit or _commit_in_cache(self.dataset),
            "config": reading.config_name,
            "split": split,
            "rows": None if limit is not None else self.num_rows,
        }

    @property
    def identity(self) -> Mapping[str, Any]:
        """Name, commit, config, split and number of rows."""
        return self._identity

    def rows(self) -> Iterator[RawRow]:
        """All rows, or the first ones if there is a limit."""
        try:
            for index, value in enumerate(islice(self.dataset, self._limit)):
                yield RawRow(index, dict(value))
        except (OSError, ValueError) as error:
            raise _refused(self.name, f"could not be read completely: {_first_line(error)}") from error


def _rows_within(stream: Any, limit: int) -> int:
    """Number of rows in the stream, at most `limit`, from the hub's metadata or by counting."""
    known = (stream.info.splits or {}).get(str(stream.split))
    return min(limit, known.num_examples) if known is not None else sum(1 for _ in islice(stream, limit))


def _loaded(
    name: str, split: str | None, reading: ReadingSettings, commit: str | None, limit: int | None
) -> tuple[Any, str]:
    import datasets

    datasets.disable_progress_bars()
    loaded = datasets.load_dataset(
        name, reading.config_name, revision=commit or reading.revision, streaming=limit is not None
    )
    splits = list(loaded)
    chosen = chosen_split(name, split, splits)
    return loaded[chosen], chosen


def _commit_in_cache(dataset: Any) -> str | None:
    """The commit of a cached data set, taken from the name of the folder with its files."""
    files = getattr(dataset, "cache_files", None) or []
    return Path(files[0]["filename"]).parent.name if files else None


def _refuse_uncached(name: str, error: Exception) -> None:
    """Refuse a data set that is not in the cache while the hub is not reachable."""
    import datasets

    if not (Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___").lower()).is_dir():
        raise _refused(
            name, f"is not a local file and not in the cache, and the hub cannot be reached: {error}"
        ) from error


@contextmanager
def offline(wanted: bool) -> Iterator[None]:
    """Disable network access of the hub's libraries inside the block if `wanted`. They retry half a minute per file."""
    import datasets
    import huggingface_hub

    flags = ((huggingface_hub.constants, "HF_HUB_OFFLINE"), (datasets.config, "HF_HUB_OFFLINE"))
    before = [getattr(module, name) for module, name in flags]
    for module, name in flags if wanted else ():
        setattr(module, name, True)
    try:
        yield
    finally:
        for (module, name), value in zip(flags, before, strict=True):
            setattr(module, name, value)


@contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # the library can raise any exception of its file readers
        raise _refused(name, f"cannot be loaded: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _refused(name: str, problem: str) -> DataError:
    return DataError(
        f"{name} {problem}",
        "a file or folder, or the name of a data set on the hub",
        "check the name, --config-name, --data-revision, the network and your login (hf auth login)",
    )
