"""`gate --ignore-file`: ignored pairs with a reason and an expiry date."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from entangle_cli.cli.ignore_file import read_ignore_file
from entangle_cli.errors import UsageError
from tests.cli.conftest import Entangle
from tests.cli.test_report_and_gate import PAIRS, SKIPPED, write_run

ENTRY = '[[ignore]]\npair = "{pair}"\nreason = "on purpose"\nexpires = {day}\n'
TODAY = date.today()


def test_ignored_pairs_are_not_judged_until_their_day(entangle: Entangle) -> None:
    run = write_run([*PAIRS, SKIPPED])
    rule = ("--fail-if", "both_fall_rate > 0")
    assert entangle("gate", run, *rule).code == 1
    for days, code in ((1, 0), (0, 0), (-1, 1)):
        Path("ignore.toml").write_text(ENTRY.format(pair=PAIRS[1].pair_id, day=TODAY + timedelta(days)))
        outcome = entangle("gate", run, *rule, "--ignore-file", "ignore.toml")
        assert outcome.code == code
        left_out = "0 pairs" if days < 0 else "1 pair"
        assert f"left out {left_out}" in " ".join(outcome.out.split())
        assert ("1 entry has expired" in " ".join(outcome.out.split())) is (days < 0)


def test_ignoring_everything_does_not_pass(entangle: Entangle) -> None:
    run = write_run(PAIRS)
    entries = (ENTRY.format(pair=pair.pair_id, day=TODAY) for pair in PAIRS)
    Path("ignore.toml").write_text("".join(entries))
    assert entangle("gate", run, "--fail-if", "both_fall_rate > 0.9", "--ignore-file", "ignore.toml").code == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing"),
        ("[[ignore]]\npair = 'a'\nreason = 'b'\n", "entry 1: expires"),
        ("[[ignore]]\npair = 'a'\nreason = ''\nexpires = 2030-01-01\n", "entry 1: reason"),
        ("[[ignore]]\npair = 5\nreason = 'b'\nexpires = 2030-01-01\n", "entry 1: pair"),
        ("[[ignore]]\npair = 'a'\nreason = 'b'\nexpires = '2030-01-01'\n", "entry 1: expires"),
        ("[[ignore]]\npair = 'a'\nreason = 'b'\nexpires = 2030-01-01T00:00:00\n", "entry 1: expires"),
        ("[[ignore]]\npair = 'a'\nreason = 'b'\nexpires = 2030-01-01\nwhy = 'c'\n", "entry 1: why"),
        ("ignore = 5", "ignore"),
        ("[[ignored]]\npair = 'a'\n", "ignored"),
        ("[[ignore", "ignore.toml"),
    ],
)
def test_invalid_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "ignore.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_ignore_file(tmp_path / "ignore.toml", TODAY)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--ignore-file"):
        read_ignore_file(tmp_path / "none.toml", TODAY)
