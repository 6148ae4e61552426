"""All names in the output are explained, all links resolve, and the examples run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from entangle_cli.analysis.losses.table import LOSSES
from entangle_cli.analysis.reasons import ReasonCode
from entangle_cli.analysis.rules import RATES, RULE_FIELDS
from entangle_cli.diagnose.views.explaining import CHECKPOINT_WARNINGS, explain, topics
from entangle_cli.errors import ExitCode, UsageError
from entangle_cli.records.pair import PAIR_FIELDS, REASONS, Movement
from tests.cli.conftest import Entangle
from tests.docs.option_tables import FILE, option_tables

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [path.read_text(encoding="utf-8") for path in (ROOT / "entangle_cli").rglob("*.py")]
CODES = {code for source in SOURCES for code in re.findall(r'"(W-[A-Z-]+)"', source)}
SKIP_REASONS = {
    reason
    for source in SOURCES
    for pattern in (
        r'(?:\.skipped|Unusable|NotAPair|NoSuchColumn)\(\s*"([a-z_]+)"',
        r'return "([a-z_]+)", (?:f?"|detail)',
    )
    for reason in re.findall(pattern, source)
}
PAGES = [*(ROOT / "entangle_cli/docs").glob("*.md"), ROOT / "README.md", *(ROOT / ".github").glob("*.md")]


def kinds(name: str) -> set[str]:
    return {one.kind.split(",")[0] for one in explain(name)}


def test_every_code_field_loss_metric_reason_and_exit_code_is_explained() -> None:
    assert len(CODES) > 30
    for code in CODES:
        assert "warning" in kinds(code), code
    assert set(CHECKPOINT_WARNINGS) <= CODES
    for name in PAIR_FIELDS:
        assert "field of a pair" in kinds(name)
    for name in LOSSES:
        assert "loss" in kinds(name)
    for name in (*RATES, "pairs", *(f"{rate}_low" for rate in RATES), *(f"{field}_p95" for field in RULE_FIELDS)):
        assert "metric of a rule" in kinds(name)
        assert "metric of a rule" in kinds(f"{name}_increase")
    for movement in Movement:
        assert "movement" in kinds(movement.value)
    for code in ExitCode:
        assert "exit code" in kinds(str(code.value))
    for reason in ReasonCode:
        assert "reason of a run" in kinds(reason.value)


def test_every_reason_is_explained() -> None:
    assert {"malformed", "identical", "tie", "too_long_for_model"} <= SKIP_REASONS
    assert set(REASONS) >= SKIP_REASONS
    for reason in REASONS:
        assert "reason" in kinds(reason)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("slak", "slack"),
        ("W-BOUNDRY", "W-BOUNDARY"),
        ("simpoo", "simpo"),
        ("both_fals_rate", "both_fall_rate"),
        ("looses", "losses"),
    ],
)
def test_a_miss_gets_a_suggestion(name: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean .*{near}"):
        explain(name)


def test_common_loss_names_are_explained() -> None:
    assert {one.name for one in explain("DPO")} == {"sigmoid"}


@pytest.mark.parametrize("topic", topics())
def test_every_topic_is_shown(topic: str, entangle: Entangle) -> None:
    outcome = entangle("explain", topic)
    assert (outcome.code, outcome.err) == (0, "")
    assert len(outcome.out.splitlines()) > 10
    assert topic in entangle("explain").out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_resolves(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


def test_the_tables_of_options_are_those_of_the_commands() -> None:
    assert FILE.read_text(encoding="utf-8") == option_tables(), "python -m tests.docs.option_tables"


def test_the_python_example_runs(tmp_path: Path) -> None:
    page = (ROOT / "entangle_cli/docs/python.md").read_text(encoding="utf-8")
    example = re.search(r"<!-- example -->\n```python\n(.*?)```", page, re.DOTALL)
    assert example is not None
    program = example[1].replace('"sample_data/', f'"{ROOT}/sample_data/')
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "failed" in done.stdout or "passed" in done.stdout
    assert "of 20 pairs" in done.stdout


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 160
