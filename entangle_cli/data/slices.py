"""A part of a split, as `datasets` writes it: `train[:500]`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from entangle_cli.data.fingerprint import Fingerprint
from entangle_cli.data.rows import RawRow, RowSource
from entangle_cli.errors import DataError


def split_and_slice(spec: str | None) -> tuple[str | None, str | None]:
    """The split's name, and the whole specification where it takes a part of it, such as `train[:500]`.

    Raises:
        DataError: parts of several splits.
    """
    if spec is None or "[" not in spec:
        return spec, None
    names = {part.split("[")[0].strip() for part in spec.split("+")}
    if len(names) > 1:
        raise DataError(f"--split {spec}: several splits", "parts of one split", "scan them one after the other")
    return names.pop(), spec


class Slice(RowSource):
    """A part of a split; rows keep the indices that they have in the whole.

    Args:
        spec: as `datasets` has it: `train[:500]`, `train[50%:]`, `train[:10]+train[90:]`.
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
        """That of the whole, and which part."""
        return {**self.whole.identity, "slice": self._spec}

    @property
    def fingerprints(self) -> Sequence[Fingerprint]:
        """Of the whole."""
        return self.whole.fingerprints

    @property
    def indices(self) -> Sequence[int]:
        """Where the rows stand in the whole."""
        return self._indices

    def rows(self) -> Iterator[RawRow]:
        """The rows of the part, in the order of the whole."""
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
            "write it like these",
        ) from error
    ranges = [range(num_rows)[part.from_ : part.to] for part in parts]
    return ranges[0] if len(ranges) == 1 else sorted({index for part in ranges for index in part})
