"""Data sets and checkpoints on the hub: asked once whether they are there, and read through the hub's libraries."""

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
"""How long the hub may take to answer; its libraries would try for half a minute."""


def is_hub_name(name: str) -> bool:
    """Whether a name can be one on the hub, `organisation/name`; what looks like a path never is."""
    return HUB_NAME.fullmatch(name) is not None


class _Unreachable(Exception):
    """The hub did not answer."""


class _Absent(Exception):
    """The hub answered that there is no such thing, or none for us."""


def _ask(kind: str, name: str, revision: str | None) -> str:
    """The commit that a name and a revision stand for now."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    api = huggingface_hub.HfApi()
    ask = api.dataset_info if kind == "data set" else api.model_info
    try:
        return str(ask(name, revision=revision, timeout=SECONDS).sha)
    except HfHubHTTPError as error:
        words = str(error).strip().splitlines()[-1]
        if error.response is not None and error.response.status_code >= 500:
            raise _Unreachable(words) from error  # it is ill, and says nothing of the name
        raise _Absent(words) from error
    except Exception as error:  # of whichever HTTP library the hub's client uses
        raise _Unreachable(str(error).strip() or type(error).__name__) from error


def is_only_cached(name: str, revision: str | None) -> bool:
    """Whether a checkpoint must be taken from the cache, since the hub does not answer.

    Raises:
        ModelError: there is no such checkpoint, or no answer and nothing in the cache.
    """
    try:
        _ask("checkpoint", name, revision)
    except (_Absent, _Unreachable) as error:
        if isinstance(error, _Unreachable) and cached_commit(name, revision) is not None:
            return True
        what = "is not on the hub, or not for you" if isinstance(error, _Absent) else "is not in the cache, and no hub"
        raise ModelError(
            f"{name} is no folder here and {what}: {error}",
            "a checkpoint folder, or the name of a checkpoint on the hub",
            "check the name, --model-revision, the network and your login (hf auth login)",
        ) from error
    return False


def cached_commit(name: str, revision: str | None) -> str | None:
    """The commit of a checkpoint that was loaded from the hub; None where only a library's cache knows."""
    import huggingface_hub

    for file in ("config.json", "adapter_config.json"):
        found = huggingface_hub.try_to_load_from_cache(name, file, revision=revision)
        if isinstance(found, str):
            return Path(found).parent.name  # snapshots/COMMIT/config.json
    return None


def adapter_folder(name: str, revision: str | None, *, local_only: bool) -> Path | None:
    """The downloaded adapter of a hub name; None where it is a whole checkpoint.

    Raises:
        ModelError: it cannot be downloaded.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        huggingface_hub.hf_hub_download(name, "adapter_config.json", revision=revision, local_files_only=local_only)
        return Path(huggingface_hub.snapshot_download(name, revision=revision, local_files_only=local_only))
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None
    except Exception as error:  # of whichever HTTP library the hub's client uses
        raise ModelError(
            f"{name}: the adapter cannot be downloaded: {_first_line(error)}", "a reachable hub", "try again"
        ) from error


class HubDataset(RowSource):
    """One split of a data set on the hub.

    Attributes:
        dataset: as `datasets` gives it; a stream where there is a limit.

    Args:
        split: without a slice; None where the data set has only one.
        limit: the first rows that will be read at most; they are streamed, so that nothing else is fetched.
    Raises:
        DataError: not there, no such config or split, several and none chosen, or no network.
    """

    kind = "hub data set"

    def __init__(self, name: str, split: str | None, reading: ReadingSettings, limit: int | None) -> None:
        self.location = name
        self.name = name
        try:
            commit: str | None = _ask("data set", name, reading.revision)
        except _Absent as error:
            raise _refused(name, f"is no file here, and not on the hub or not for you: {error}") from error
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
        """All rows; of a stream the first ones."""
        try:
            for index, value in enumerate(islice(self.dataset, self._limit)):
                yield RawRow(index, dict(value))
        except (OSError, ValueError) as error:
            raise _refused(self.name, f"cannot be read on: {_first_line(error)}") from error


def _rows_within(stream: Any, limit: int) -> int:
    """How many of the first rows there are: what the hub says, or what counting them says."""
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
    """The commit that a data set in the cache was made from: its files lie in a folder of that name."""
    files = getattr(dataset, "cache_files", None) or []
    return Path(files[0]["filename"]).parent.name if files else None


def _refuse_uncached(name: str, error: Exception) -> None:
    """Without a network only what was loaded before can be read."""
    import datasets

    if not (Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___").lower()).is_dir():
        raise _refused(name, f"is no file here and not in the cache, and the hub cannot be reached: {error}") from error


@contextmanager
def offline(wanted: bool) -> Iterator[None]:
    """The hub's libraries without a network inside, where that is wanted: they would try for half a minute a file."""
    import datasets
    import huggingface_hub

    places = ((huggingface_hub.constants, "HF_HUB_OFFLINE"), (datasets.config, "HF_HUB_OFFLINE"))
    before = [getattr(module, name) for module, name in places]
    for module, name in places if wanted else ():
        setattr(module, name, True)
    try:
        yield
    finally:
        for (module, name), value in zip(places, before, strict=True):
            setattr(module, name, value)


@contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # the library raises whatever its file readers do
        raise _refused(name, f"cannot be loaded: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _refused(name: str, what: str) -> DataError:
    return DataError(
        f"{name} {what}",
        "a file or folder, or the name of a data set on the hub",
        "check the name, --config-name, --data-revision, the network and your login (hf auth login)",
    )
