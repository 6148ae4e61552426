"""Options from files and the environment, and their precedence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import LONG, MODEL, Entangle

SCAN = ("scan", MODEL, LONG, "--limit", "2", "-q", "-o")


def settings(run: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(Path(run, "manifest.json").read_text())["identity"]["settings"]
    return found


def test_precedence_of_options(entangle: Entangle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert entangle(*SCAN, "one").code == 0
    (tmp_path / "pyproject.toml").write_text("[tool.entangle]\nmax-length = 300\n[tool.entangle.scan]\nseed = 5\n")
    assert entangle(*SCAN, "two").code == 0
    monkeypatch.setenv("ENTANGLE_MAX_LENGTH", "200")
    assert entangle(*SCAN, "three").code == 0
    assert entangle(*SCAN, "four", "--max-length", "100").code == 0
    assert [settings(run)["max_length"] for run in ("one", "two", "three", "four")] == [512, 300, 200, 100]
    assert settings("two")["seed"] == 5


def test_entangle_toml_takes_precedence_over_pyproject_and_is_found_from_subfolders(
    entangle: Entangle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.entangle]\nmax-length = 300\n")
    (tmp_path / "entangle.toml").write_text("max_length = 400\n[gate]\nfail-if = ['pairs < 3']\n")
    (tmp_path / "deep/down").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep/down")
    assert entangle(*SCAN, "run").code == 0
    assert settings("run")["max_length"] == 400
    outcome = entangle("gate", "run")
    assert outcome.code == 1
    assert "pairs: 2 (of 2 rows), at least 3 (../../entangle.toml): FAILED" in outcome.out


def test_a_rule_from_the_environment(entangle: Entangle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert entangle(*SCAN, "run").code == 0
    monkeypatch.setenv("ENTANGLE_FAIL_IF", "pairs < 3")
    assert entangle("gate", "run").code == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max-lenght = 3", "no option 'max-lenght'"),
        ("max-lenght = 3", "did you mean max-length?"),
        ("[gate]\nmax-length = 3", "no option 'gate.max-length'"),
        ("[gaet]\nfail-if = []", "no option 'gaet'"),
        ("max-length = ", "entangle.toml: "),
    ],
)
def test_options_that_cannot_be_configured_are_refused(
    entangle: Entangle, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "entangle.toml").write_text(text)
    outcome = entangle(*SCAN, "run")
    assert outcome.code == 2
    assert message in outcome.err


def test_a_value_of_the_wrong_kind_is_refused(entangle: Entangle, tmp_path: Path) -> None:
    (tmp_path / "entangle.toml").write_text("max-length = 'long'")
    assert entangle(*SCAN, "run").code == 2
