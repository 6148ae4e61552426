"""Slices of a split in the syntax of `datasets`: `train[:500]`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from entangle_cli.data.fingerprint import Fingerprint
from entangle_cli.data.rows import RawRow, RowSource
from entangle_cli.errors import DataError


def split_and_slice(spec: str | None) -> tuple[str | None, str | None]:
    """The split's name, and the specification if it is a slice such as `train[:500]`, else None.

    Raises:
        DataError: the specification has slices of several splits.
    """
    if spec is None or "[" not in spec:
        return spec, None
    names = {part.split("[")[0].strip() for part in spec.split("+")}
    if len(names) > 1:
        raise DataError(f"--split {spec}: several splits", "slices of one split", "scan the splits one after another")
    return names.pop(), spec


class Slice(RowSource):
    """A part of a split. Rows keep their indices in the whole split.

    Args:
        spec: slice in the syntax of `datasets`: `train[:500]`, `train[50%:]`, `train[:10]+train[90:]`.
    Raises:
        DataError: the specification is invalid.
    """

    def __init__(self, whole: RowSource, spec: str) -> None:
        self.whole = whole
        self._spec = spec
        self.location = f"{whole.location}, {spec}"
        self.name = whole.name
        self.kind = whole.kind
        self.files = whole.files
        self._indices = _sliced(spec, whole.num_rows)
        self.num_rows = len(self._indices)

    @property
    def identity(self) -> Mapping[str, Any]:
        """The identity of the whole split, and the slice."""
        return {**self.whole.identity, "slice": self._spec}

    @property
    def fingerprints(self) -> Sequence[Fingerprint]:
        """Fingerprints of the whole split."""
        return self.whole.fingerprints

    @property
    def indices(self) -> Sequence[int]:
        """Indices of the rows in the whole split."""
        return self._indices

    def rows(self) -> Iterator[RawRow]:
        """The rows of the slice, in the order of the whole split."""
        wanted = self._indices if isinstance(self._indices, range) else frozenset(self._indices)
        return (row for row in self.whole.rows() if row.index in wanted)


def _sliced(spec: str, num_rows: int) -> Sequence[int]:
    import datasets

    name = spec.split("[")[0].strip()
    try:
        parts = datasets.ReadInstruction.from_spec(spec).to_absolute({name: num_rows})
    except (ValueError, AssertionError) as error:
        raise DataError(
            f"--split {spec}: {error}",
            "a slice such as train[:500] or train[50%:]",
            "use for example --split 'train[:500]'",
        ) from error
    ranges = [range(num_rows)[part.from_ : part.to] for part in parts]
    return ranges[0] if len(ranges) == 1 else sorted({index for part in ranges for index in part})
