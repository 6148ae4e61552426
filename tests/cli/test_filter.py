"""`entangle filter`: kept rows are unchanged, in every data format."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest

from entangle_cli.data import subset
from entangle_cli.data.sources import open_source
from entangle_cli.records.settings import ReadingSettings
from tests.cli.conftest import LONG, MODEL, Entangle
from tests.data.test_sources import WRITERS

ROWS = [json.loads(line) | {"note": f"é, {number}"} for number, line in enumerate(LONG.read_text().splitlines()[:8])]
ROWS[2]["rejected"] = ROWS[2]["chosen"]  # is skipped
DROP = ("--drop", "movement == both_fall")


def scanned(entangle: Entangle, data: str | Path, *words: str) -> list[dict[str, Any]]:
    outcome = entangle("scan", MODEL, data, "-q", "-o", "run", "--json", "run.json", *words)
    assert outcome.code == 0, outcome.err
    pairs: list[dict[str, Any]] = json.loads(Path("run.json").read_text())["pairs"]
    return pairs


def values(path: str | Path) -> list[Any]:
    return [row.value for row in open_source(str(path)).rows()]


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "a.NDJSON"])
def test_kept_and_dropped_rows_are_the_data(name: str, entangle: Entangle, tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    WRITERS[name](tmp_path / name, ROWS)
    pairs = scanned(entangle, name)
    expected = [pair["movement"] != "both_fall" for pair in pairs]
    assert 0 < sum(expected) < 8
    suffixes = "".join(Path(name).suffixes)
    for words, target, is_in in (((), f"kept{suffixes}", True), (("--write-dropped",), f"dropped{suffixes}", False)):
        outcome = entangle("filter", "run", name, "-o", target, *DROP, *words)
        assert outcome.code == 0, outcome.err
        assert f"kept {sum(expected)} of 8 rows" in outcome.out
        assert values(target) == [row for row, kept in zip(ROWS, expected, strict=True) if kept is is_in]
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.arrow", "saved", "wrapped.json"])
def test_columns_are_added_and_nothing_else_changes(name: str, entangle: Entangle, tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    WRITERS[name](tmp_path / name, ROWS)
    pairs = scanned(entangle, name)
    target = f"more{Path(name).suffix}"
    outcome = entangle("filter", "run", name, "-o", target, "--annotate", "--drop-uncertain")
    assert outcome.code == 0, outcome.err
    for row, before, pair in zip(values(target), ROWS, pairs, strict=True):
        assert {key: row[key] for key in before} == before
        assert row["entangle_status"] == pair["status"]
        assert (row["entangle_movement"] or None) == pair["movement"]
        cosine = row["entangle_cosine"]
        assert (None if cosine in (None, "") else float(cosine)) == pair["cosine"]


def test_lines_are_kept_byte_by_byte(entangle: Entangle, tmp_path: Path) -> None:
    lines = [json.dumps(row, ensure_ascii=number % 2 == 0).encode() for number, row in enumerate(ROWS)]
    lines[1] = b"  " + lines[1].replace(b": ", b" :\t") + b" \r"
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines[:4]) + b"\n\n{broken\n" + b"\n".join(lines[4:]))
    pairs = scanned(entangle, "a.jsonl")
    assert entangle("filter", "run", "a.jsonl", "-o", "b.jsonl", *DROP).code == 0
    rows = [*lines[:4], b"{broken", *lines[4:]]
    kept = [line for line, pair in zip(rows, pairs, strict=True) if pair["movement"] != "both_fall"]
    assert (tmp_path / "b.jsonl").read_bytes() == b"".join(line + b"\n" for line in kept)
    assert b"{broken" in kept


def test_a_folder_stays_a_folder(entangle: Entangle, tmp_path: Path) -> None:
    (tmp_path / "in/data").mkdir(parents=True)
    for part in range(2):
        WRITERS["a.jsonl"](tmp_path / f"in/data/train-{part}.jsonl", ROWS[part::2])
    pairs = scanned(entangle, "in")
    assert entangle("filter", "run", "in", "-o", "out", *DROP).code == 0
    kept = [pair["movement"] != "both_fall" for pair in pairs]
    for part in range(2):
        expected = [row for row, is_kept in zip(ROWS[part::2], kept[4 * part :], strict=False) if is_kept]
        assert values(tmp_path / f"out/data/train-{part}.jsonl") == expected


def test_the_expected_shares_are_those_of_the_kept_rows(entangle: Entangle, tmp_path: Path) -> None:
    WRITERS["a.jsonl"](tmp_path / "a.jsonl", ROWS)
    scanned(entangle, "a.jsonl")
    words = ("--keep-lowest", "0.5", "--by", "cosine", "--json", "out.json")
    assert entangle("filter", "run", "a.jsonl", "-o", "b.jsonl", *words).code == 0
    result = json.loads(Path("out.json").read_text())
    assert (result["kept"], result["dropped"], result["after"]["pairs"]) == (4, 4, 4)
    again = entangle("scan", MODEL, "b.jsonl", "-q", "-o", "again", "--json", "again.json")
    assert again.code == 0, again.err
    summary = json.loads(Path("again.json").read_text())["summary"]
    counts = {name: share["count"] for name, share in summary["movements"].items()}
    assert {name: share["count"] for name, share in result["after"]["movements"].items()} == counts
    assert summary["fields"]["cosine"]["mean"] == pytest.approx(result["after"]["mean_cosine"], abs=1e-6)


def test_rows_outside_the_run_are_reported(entangle: Entangle, tmp_path: Path) -> None:
    WRITERS["a.jsonl"](tmp_path / "a.jsonl", ROWS)
    scanned(entangle, "a.jsonl", "--limit", "4")
    refused = entangle("filter", "run", "a.jsonl", "-o", "b.jsonl", *DROP)
    assert (refused.code, Path("b.jsonl").exists()) == (2, False)
    assert "measured 4 of 8 rows" in refused.err
    assert "--keep-unmeasured or --drop-unmeasured" in refused.err
    outcome = entangle("filter", "run", "a.jsonl", "-o", "b.jsonl", *DROP, "--keep-unmeasured")
    assert "the run never measured 4 rows" in outcome.out
    assert values("b.jsonl")[-4:] == ROWS[4:]
    assert entangle("filter", "run", "a.jsonl", "-o", "c.jsonl", *DROP, "--drop-unmeasured").code == 0
    assert len(values("c.jsonl")) == len(values("b.jsonl")) - 5  # one of the first four was skipped


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("a.jsonl", "-o", "b.jsonl"), 2, "no rule to filter by"),
        (("a.jsonl", "-o", "b.csv", *DROP), 2, "a name that ends in .jsonl"),
        (("a.jsonl", "-o", "a.jsonl", *DROP), 2, "already exists"),
        (("a.jsonl", "-o", "no/b.jsonl", *DROP), 2, "its folder does not exist"),
        (("other.jsonl", "-o", "b.jsonl", *DROP), 2, "other.jsonl is not the data of run"),
        (("a.jsonl", "-o", "b.jsonl", "--keep-lowest", "2"), 2, "above 0 and at most 1"),
        (("a.jsonl", "-o", "b.jsonl", "--keep-lowest", ".5", "--keep-highest", ".5"), 2, "one of the two"),
        (("a.jsonl", "-o", "b.jsonl", "--keep", "cosine > 2"), 5, "no row is left"),
        (("none.jsonl", "-o", "b.jsonl", *DROP), 3, "no such file"),
    ],
)
def test_what_cannot_be_filtered(
    entangle: Entangle, tmp_path: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    WRITERS["a.jsonl"](tmp_path / "a.jsonl", ROWS)
    WRITERS["a.jsonl"](tmp_path / "other.jsonl", ROWS[:3])
    scanned(entangle, "a.jsonl")
    outcome = entangle("filter", "run", *words)
    assert (outcome.code, message in outcome.err) == (code, True), outcome.err


def test_rows_of_several_pairs_are_refused(entangle: Entangle, rows_file: Callable[..., Path]) -> None:
    answers = [{"answer": text, "rank": rank} for rank, text in enumerate((" a.", " b.", " c."))]
    path = rows_file([{"prompt": "The owl is", "answers": answers}])
    scanned(entangle, path, "--ranked", "all")
    outcome = entangle("filter", "run", path, "-o", "b.jsonl", *DROP)
    assert outcome.code == 2
    assert "rows with several pairs" in outcome.err


def test_compressed_files_are_compressed_again(entangle: Entangle, tmp_path: Path) -> None:
    WRITERS["a.jsonl"](tmp_path / "a.jsonl", ROWS)
    scanned(entangle, "a.jsonl")
    assert entangle("filter", "run", "a.jsonl", "-o", "b.jsonl.gz", *DROP).code == 0
    assert gzip.decompress((tmp_path / "b.jsonl.gz").read_bytes()).startswith(b"{")


def test_a_table_keeps_cells_that_look_like_json(entangle: Entangle, tmp_path: Path) -> None:
    rows = [{**row, "note": '[{"role": "x"}]'} for row in ROWS]
    WRITERS["a.csv"](tmp_path / "a.csv", rows)
    scanned(entangle, "a.csv")
    assert entangle("filter", "run", "a.csv", "-o", "b.csv", *DROP).code == 0
    with (tmp_path / "b.csv").open(encoding="utf-8", newline="") as file:
        assert {row["note"] for row in csv.DictReader(file)} == {'[{"role": "x"}]'}


def test_a_parquet_file_keeps_its_schema(entangle: Entangle, tmp_path: Path) -> None:
    WRITERS["a.parquet"](tmp_path / "a.parquet", ROWS)
    scanned(entangle, "a.parquet")
    assert entangle("filter", "run", "a.parquet", "-o", "b.parquet", "--keep", "cosine > 0.5").code == 0
    assert pq.read_schema("b.parquet").equals(pq.read_schema("a.parquet"))
    assert open_source("b.parquet", ReadingSettings()).num_rows == 7


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "saved"])
def test_columns_of_an_earlier_round_are_replaced(name: str, entangle: Entangle, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, ROWS)
    target = f"once{Path(name).suffix}"
    scanned(entangle, name)
    assert entangle("filter", "run", name, "-o", target, "--annotate").code == 0
    assert entangle("scan", MODEL, target, "-q", "-o", "again").code == 0
    outcome = entangle("filter", "again", target, "-o", f"twice{Path(name).suffix}", "--annotate")
    assert outcome.code == 0, outcome.err
    assert [sorted(row) for row in values(f"twice{Path(name).suffix}")] == [sorted(row) for row in values(target)]


def test_a_saved_data_set_is_not_touched(entangle: Entangle, tmp_path: Path) -> None:
    WRITERS["saved"](tmp_path / "saved", ROWS)
    before = sorted(path.name for path in (tmp_path / "saved").iterdir())
    scanned(entangle, "saved")
    for target in ("one", "two"):
        outcome = entangle("filter", "run", "saved", "-o", target, *DROP, "--annotate")
        assert (outcome.code, outcome.err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == before


def test_a_slice_of_a_file_is_filtered_as_a_file(entangle: Entangle, tmp_path: Path) -> None:
    WRITERS["a.jsonl"](tmp_path / "a.jsonl", ROWS)
    pairs = scanned(entangle, "a.jsonl", "--split", "train[2:7]")
    assert entangle("filter", "run", "a.jsonl", "-o", "b.jsonl", *DROP).code == 0
    kept = [pair["index"] for pair in pairs if pair["movement"] != "both_fall"]
    assert values("b.jsonl") == [ROWS[index] for index in kept]


def test_the_outcome_does_not_replace_the_rows(entangle: Entangle, tmp_path: Path) -> None:
    WRITERS["a.jsonl"](tmp_path / "a.jsonl", ROWS)
    scanned(entangle, "a.jsonl")
    outcome = entangle("filter", "run", "a.jsonl", "-o", "b.jsonl", *DROP, "--json", "b.jsonl")
    assert outcome.code == 2
    assert "two files" in outcome.err


def test_what_ends_early_leaves_nothing(entangle: Entangle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS["a.jsonl"](tmp_path / "a.jsonl", ROWS)
    scanned(entangle, "a.jsonl")
    before = sorted(tmp_path.iterdir())

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(subset, "_write_lines", full)
    outcome = entangle("filter", "run", "a.jsonl", "-o", "b.jsonl", *DROP)
    assert outcome.code == 4
    assert "No space left" in outcome.err
    assert sorted(tmp_path.iterdir()) == before


def test_rows_of_too_many_or_few_cells_stay_as_they_are(entangle: Entangle, tmp_path: Path) -> None:
    WRITERS["a.csv"](tmp_path / "a.csv", ROWS)
    with (tmp_path / "a.csv").open("a", newline="") as file:
        file.write("few,cells\none,too,many,of,them\n")
    scanned(entangle, "a.csv")
    assert entangle("filter", "run", "a.csv", "-o", "b.csv", "--annotate").code == 0
    assert (tmp_path / "b.csv").read_text().endswith("few,cells\none,too,many,of,them\n")


def test_a_readme_that_names_the_splits_goes_along(entangle: Entangle, tmp_path: Path) -> None:
    (tmp_path / "in/data").mkdir(parents=True)
    WRITERS["a.jsonl"](tmp_path / "in/data/a.jsonl", ROWS)
    readme = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: all\n    path: data/*.jsonl\n---\n"
    (tmp_path / "in/README.md").write_text(readme)
    scanned(entangle, "in")
    assert entangle("filter", "run", "in", "-o", "out", "--keep", "cosine > 0").code == 0
    assert open_source("out", ReadingSettings(split="all")).num_rows == 7
