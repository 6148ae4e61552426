"""DATA with a reading of its own for every data set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entangle_cli.data.pairs import PreferencePair
from entangle_cli.data.sources import open_source
from entangle_cli.diagnose.scan.row_reader import pair_reader
from entangle_cli.diagnose.views.first_rows import peeked_formats
from entangle_cli.errors import UsageError
from entangle_cli.records.data_words import READING_OPTIONS, data_word, parsed_data_word
from entangle_cli.records.settings import ReadingSettings


@given(
    st.text(min_size=1).filter(lambda text: "#" not in text),
    st.lists(st.tuples(st.sampled_from(READING_OPTIONS), st.text()), max_size=3),
)
def test_a_word_is_taken_apart_as_it_was_joined(name: str, options: list[tuple[str, str]]) -> None:
    assert parsed_data_word(data_word(name, options)) == (name, options or ())


@pytest.mark.parametrize("word", ["pairs.jsonl", "a#b.jsonl", "#split.jsonl", "notes#colour=red", "C#.json"])
def test_a_name_with_a_hash_is_a_name(word: str) -> None:
    assert parsed_data_word(word) == (word, ())


def written(file: Path, rows: list[dict[str, str]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def two_files(tmp_path: Path) -> tuple[Path, Path]:
    first = [{"question": f"q{n}", "best": "a", "worst": "b"} for n in range(4)]
    second = [{"prompt": f"p{n}", "chosen": "c", "rejected": "d"} for n in range(4)]
    return written(tmp_path / "first.jsonl", first), written(tmp_path / "second.jsonl", second)


def test_every_data_set_is_read_as_its_word_says(two_files: tuple[Path, Path]) -> None:
    first, second = two_files
    words = [
        f"{first}#map=prompt=question&map=chosen=best&map=rejected=worst&split=train[1:3]",
        f"{second}#split=train[:1]",
    ]
    source = open_source(words)
    pairs = pair_reader(source, ReadingSettings())
    peeked_formats(source, pairs, ReadingSettings())
    found = [pair for row in source.rows() for pair in pairs.read(row)]
    assert all(isinstance(pair, PreferencePair) for pair in found)
    assert [(pair.prompt, pair.chosen) for pair in found if isinstance(pair, PreferencePair)] == [
        ("q1", "a"), ("q2", "a"), ("p0", "c"),
    ]  # fmt: skip


def test_one_word_reads_as_the_options_do(two_files: tuple[Path, Path]) -> None:
    first, _ = two_files
    columns = {"prompt": "question", "chosen": "best", "rejected": "worst"}
    by_options = ReadingSettings(split="train[:2]", columns=columns)
    word = f"{first}#split=train[:2]&map=prompt=question&map=chosen=best&map=rejected=worst"
    of_word, of_options = open_source(word), open_source(str(first), by_options)
    read_word = pair_reader(of_word, ReadingSettings())
    read_options = pair_reader(of_options, by_options)
    ids = [
        [each.pair_id for row in source.rows() for each in reader.read(row)]
        for source, reader in ((of_word, read_word), (of_options, read_options))
    ]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 2


def test_the_readings_are_part_of_the_identity(two_files: tuple[Path, Path]) -> None:
    first, second = two_files
    swapped = [open_source([f"{first}#map=chosen={a}&map=rejected={b}", str(second)]) for a, b in
               (("best", "worst"), ("worst", "best"))]  # fmt: skip
    one, other = (pair_reader(source, ReadingSettings()).identity for source in swapped)
    assert one != other


@pytest.mark.parametrize("wrong", ["map=chosen", "map==x", "map=chosen=a&map=chosen=b"])
def test_a_map_without_a_column_is_refused(two_files: tuple[Path, Path], wrong: str) -> None:
    with pytest.raises(UsageError, match="map="):
        open_source(f"{two_files[0]}#{wrong}")


def test_a_column_that_a_data_set_lacks_is_refused(two_files: tuple[Path, Path]) -> None:
    first, second = two_files
    source = open_source([f"{first}#map=chosen=best&map=rejected=wurst", str(second)])
    with pytest.raises(UsageError, match="wurst"):
        peeked_formats(source, pair_reader(source, ReadingSettings()), ReadingSettings())
