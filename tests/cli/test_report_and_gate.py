"""`entangle report` and `entangle gate` on a run written without a model."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from sarif_pydantic import Sarif

from entangle_cli.records.pair import PairRecord
from entangle_cli.records.run import Identity
from entangle_cli.records.settings import ScanSettings
from entangle_cli.report.escape import for_cell
from entangle_cli.store.writing import RunWriter
from tests.cli.conftest import Entangle

HOSTILE = "\x1b[31mred\x1b[0m [bold]markup[/] <script>alert(1)</script> =cmd()\r\n::error::no \u202egnp"


def pair(index: int, chosen_norm: float, rejected_norm: float, cosine: float) -> PairRecord:
    inner = cosine * chosen_norm * rejected_norm
    return PairRecord(
        index=index,
        pair_id=f"{index:032x}",
        status="ok",
        line=index + 1,
        format="TRL standard",
        boundary_moved=False,
        prompt_tokens=4,
        chosen_tokens=10,
        rejected_tokens=20,
        chosen_truncated=False,
        rejected_truncated=False,
        chosen_log_prob=-5.0,
        rejected_log_prob=-7.0,
        chosen_grad_norm=chosen_norm,
        rejected_grad_norm=rejected_norm,
        inner_product=inner,
        cosine=cosine,
        norm_ratio=chosen_norm / rejected_norm,
        chosen_condition=inner / chosen_norm**2,
        rejected_condition=inner / rejected_norm**2,
    )


PAIRS = [
    pair(0, 1.0, 1.0, 0.6),  # separates
    pair(1, 1.0, 2.0, 0.9),  # A = 1 < P = 1.8 < B = 4: both fall
    pair(2, 2.0, 1.0, 0.9),  # both rise
    pair(3, 1.0, 1.0, -0.2),  # separates
]
SKIPPED = PairRecord(index=4, pair_id=None, status="skipped", reason="malformed", detail=HOSTILE, line=5)


def write_run(records: list[PairRecord], folder: str = "run") -> Path:
    settings = {"dtype": ScanSettings().dtype}
    is_whole = [record.index for record in records] == list(range(len(records)))
    data = {"name": HOSTILE, "rows": len(records) if is_whole else None}
    identity = {"model": {"name": "m"}, "data": data, "settings": settings, "tokenization": "trl-1.16"}
    about: dict[str, Any] = {
        "loss": {"name": "sigmoid", "beta": 0.1},
        "plan": {"slow_parameters": {}},
        "tokenizer": {"eos_token": "</s>"},
        "environment": {"device": "cpu"},
    }
    with RunWriter.open(Path(folder), Identity(identity), about) as writer:
        writer.add(records)
    return writer.folder


def test_json_lines_and_csv_hold_every_pair(entangle: Entangle) -> None:
    run = write_run([*PAIRS, SKIPPED])
    lines = [json.loads(line) for line in entangle("report", run, "--format", "jsonl").out.splitlines()]
    assert [line["movement"] for line in lines] == ["separates", "both_fall", "both_rise", "separates", None]
    table = list(csv.DictReader(io.StringIO(entangle("report", run, "--format", "csv").out)))
    assert [row["cosine"] for row in table] == ["0.6", "0.9", "0.9", "-0.2", ""]
    assert table[4]["detail"] == for_cell(HOSTILE)
    document = json.loads(entangle("report", run, "--format", "json").out)
    assert document["pairs"] == lines
    assert document["summary"]["movements"]["both_fall"] == {
        "count": 1,
        "rate": 0.25,
        # Wilson, 1 of 4: computed by hand from its formula with z = 1.959964.
        "interval": pytest.approx([0.0455874, 0.6993582], abs=1e-6),
    }


def test_hostile_text_is_harmless_in_every_output(entangle: Entangle) -> None:
    formula = PairRecord(index=5, pair_id="=1+1", status="skipped", reason="malformed", detail="@SUM(A1)", line=6)
    run = write_run([*PAIRS, SKIPPED, formula])
    terminal = entangle("report", run).out
    assert "\x1b" not in terminal
    assert "\u202e" not in terminal
    assert "[bold]markup[/]" in terminal
    assert not any(line.startswith("::error") for line in terminal.splitlines())
    table = list(csv.DictReader(io.StringIO(entangle("report", run, "--format", "csv").out)))
    assert (table[5]["pair_id"], table[5]["detail"]) == ("'=1+1", "'@SUM(A1)")
    assert "\x1b" not in entangle("report", run, "--format", "jsonl").out


def test_report_under_another_loss(entangle: Entangle) -> None:
    run = write_run(PAIRS)
    document = json.loads(entangle("report", run, "--format", "json", "--loss", "simpo", "--beta", "2").out)
    # SimPO weights chosen by 1/10 and rejected by 1/20: r = 2 moves pair 1 into the band (P/A, B/P) = (1.8, 2.2).
    assert [pair["movement"] for pair in document["pairs"]] == ["both_rise", "separates", "both_rise", "separates"]
    assert document["summary"]["loss"] == {"name": "simpo", "beta": 2.0, "options": {}}


def test_report_with_custom_loss_options(entangle: Entangle) -> None:
    run = write_run(PAIRS)
    outcome = entangle("report", run, "--loss", "simpo", "--gamma", "1.5", "--loss-option", "nll-weight=100")
    assert "SimPO (simpo, beta 0.1, gamma 1.5, nll_weight 100)" in " ".join(outcome.out.split())
    # Such a high likelihood weight raises every chosen answer, and every rejected one with a positive inner product.
    document = json.loads(
        entangle("report", run, "--format", "json", "--loss", "simpo", "--loss-option", "nll_weight=100").out
    )
    assert [pair["movement"] for pair in document["pairs"]] == ["both_rise"] * 3 + ["separates"]
    assert document["summary"]["loss"]["options"] == {"nll_weight": 100.0}
    for wrong in ("nll_weight", "nll_weight=x", "weight=1"):
        assert entangle("report", run, "--loss", "simpo", "--loss-option", wrong).code == 2


def test_all_losses_side_by_side(entangle: Entangle) -> None:
    run = write_run([*PAIRS, SKIPPED])
    comparison = json.loads(entangle("report", run, "--losses", "--format", "json").out)
    assert comparison["schema"] == "entangle.losses"
    by_name = {row["name"]: row for row in comparison["losses"]}
    alone = json.loads(entangle("report", run, "--format", "json", "--loss", "simpo", "--beta", "2").out)["pairs"]
    for movement, count in by_name["simpo"]["counts"].items():
        assert count == sum(pair["movement"] == movement for pair in alone)
    outcome = entangle("report", run, "--losses")
    assert outcome.code == 0
    for name in by_name:
        assert name in outcome.out
    shares = [int(line.split("%")[0].split()[-1]) for line in outcome.out.splitlines() if line.count("%") > 2]
    assert shares == sorted(shares, reverse=True)
    assert "100 %  bring both gradients of each pair to one length" in outcome.out
    assert entangle("report", run, "--losses", "--format", "csv").code == 2


def test_a_narrow_terminal_cuts_no_share(entangle: Entangle, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(PAIRS)
    monkeypatch.setenv("COLUMNS", "80")
    lines = entangle("report", run, "--losses").out.splitlines()
    assert max(map(len, lines)) <= 80
    simpo = next(line for line in lines if "ipo" in line and "%" in line)
    assert simpo.count("%") == 4
    assert "…" not in "".join(lines)
    assert "kto z0 0, chosen_weight 1, rejected_weight 1" in " ".join(" ".join(lines).split())


def test_all_losses_of_nothing(entangle: Entangle) -> None:
    assert "No pair was measured" in entangle("report", write_run([SKIPPED]), "--losses").out


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        (["both_fall_rate > 0.25"], 0),
        (["both_fall_rate >= 0.25"], 1),
        (["cosine_p95 > 0.95"], 0),
        (["cosine_p95 > 0.95", "skipped_rate > 0.1"], 1),
        (["pairs < 10"], 1),
        (["cosine_mean < 0"], 0),
        (["separates_rate < 0.6", "cosine_median > 0.99"], 1),
    ],
)
def test_the_gate_judges(entangle: Entangle, rules: list[str], code: int) -> None:
    run = write_run([*PAIRS, SKIPPED])
    outcome = entangle("gate", run, *[word for rule in rules for word in ("--fail-if", rule)])
    assert outcome.code == code
    assert f"gate {'failed' if code else 'passed'}" in outcome.out
    said = " ".join(outcome.out.split())
    for rule in rules:
        label = rule.split()[0].removesuffix("_rate")
        assert f"{label.replace('_', ' ') if rule.split()[0].endswith('_rate') else label}: " in said
    assert ("next: entangle show" in said) is bool(code)


def test_a_partial_run_does_not_pass(entangle: Entangle) -> None:
    run = write_run(PAIRS)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "status": "partial"}))
    outcome = entangle("gate", run, "--fail-if", "both_fall_rate > 0.9")
    assert outcome.code == 5
    assert "not complete" in outcome.err


def test_a_gate_with_nothing_to_judge_does_not_pass(entangle: Entangle) -> None:
    run = write_run([SKIPPED])
    assert entangle("gate", run, "--fail-if", "both_fall_rate > 0.5").code == 5
    assert entangle("gate", run).code == 2
    assert entangle("gate", "nowhere", "--fail-if", "pairs < 1").code == 3
    assert entangle("gate", "--fail-if", "pairs < 1").code == 3


def test_an_old_or_broken_manifest_is_refused(entangle: Entangle) -> None:
    run = write_run(PAIRS)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "schema_version": "2.0"}))
    assert "schema version 2.0" in entangle("report", run).err
    (run / "manifest.json").write_text("{")
    assert entangle("report", run).code == 3


def test_the_gate_over_a_baseline(entangle: Entangle) -> None:
    write_run(PAIRS[:1] + PAIRS[3:], "old")
    write_run(PAIRS, "new")
    rule = ("--fail-if", "both_fall_rate_increase > 0.2")
    assert entangle("gate", "new", *rule, "--baseline", "old").code == 1
    assert entangle("gate", "old", *rule, "--baseline", "old").code == 2  # the run itself
    assert entangle("gate", "new", *rule).code == 2
    assert entangle("gate", "new", *rule, "--baseline", "nowhere").code == 3
    fresh = ("--fail-if", "both_fall_rate >= 0.5", "--only-new", "--baseline", "old")
    outcome = entangle("gate", "new", *fresh)
    assert outcome.code == 1
    assert "1 of 2 measured pairs" in outcome.out
    write_run(PAIRS[:1] + PAIRS[2:], "part")
    assert (
        entangle("gate", "part", *fresh[:3], "--baseline", "new").code == 5
    )  # without new pairs, there is nothing to judge
    assert entangle("gate", "new", "--fail-if", "pairs < 1", "--only-new").code == 2
    assert entangle("report", "new", *rule).code == 2


def test_limits_of_the_gate(entangle: Entangle) -> None:
    run = write_run([*PAIRS, SKIPPED])
    rule = ("--fail-if", "both_fall_rate > 0.9")
    assert entangle("gate", run, *rule, "--min-pairs", "4", "--max-skipped", "0.2").code == 0
    assert entangle("gate", run, *rule, "--min-pairs", "5").code == 5
    assert entangle("gate", run, *rule, "--max-skipped", "0.1").code == 5


def test_the_verdict_for_machines(entangle: Entangle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run([*PAIRS, SKIPPED])
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    rules = ("--fail-if", "both_fall_rate > 0.2", "--fail-if", "pairs < 1", "--fail-if", "slack_p05_increase > 0")
    before = write_run(PAIRS, "before")
    words = ("--baseline", before, "--format", "json", "--write", "junit=gate.xml", "--write", "github=gate.txt")
    outcome = entangle("gate", run, *rules, *words)
    assert outcome.code == 1, outcome.err
    document = json.loads(outcome.out)
    assert (document["schema"], document["outcome"]) == ("entangle.verdict", "failed")
    assert [result["outcome"] for result in document["results"]] == ["failed", "passed", "passed"]
    assert document["results"][0]["observed"] == 0.25
    suite = ElementTree.parse("gate.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "0")
    assert [case.get("name") for case in suite] == ["both_fall_rate > 0.2", "pairs < 1", "slack_p05_increase > 0"]
    lines = Path("gate.txt").read_text().splitlines()
    assert lines[0].startswith("::error title=entangle gate::both fall: 25.0 %25 (1 of 4 measured pairs), limit 20 %25")
    assert all(re.match(r"::(error|warning|notice) [^:]*::", line) for line in lines)
    assert "### entangle gate: failed" in (tmp_path / "summary.md").read_text()
    assert "**failed**" in entangle("gate", run, *rules, "--baseline", before, "--format", "markdown").out
    for wrong in ("junit", "junit=", "xml=a.xml", "junit=no/such/a.xml"):
        assert entangle("gate", run, "--fail-if", "pairs < 1", "--write", wrong).code == 2


def test_too_few_pairs_are_an_error_in_junit(entangle: Entangle) -> None:
    run = write_run(PAIRS)
    outcome = entangle("gate", run, "--fail-if", "pairs < 1", "--min-pairs", "9", "--format", "junit")
    assert outcome.code == 5
    suite = ElementTree.fromstring(outcome.out)
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "0", "1")


def read_sarif(text: str) -> Any:
    """The only run of a SARIF log, parsed by an independent library."""
    log = Sarif.model_validate_json(text)
    assert log.version == "2.1.0"
    (run,) = log.runs
    rules = [rule.id for rule in run.tool.driver.rules or []]
    assert all(result.rule_id in rules and result.message.text for result in run.results or [])
    return run


def test_sarif_has_a_result_at_each_line(entangle: Entangle) -> None:
    run = write_run([replace(PAIRS[1], file="a b/\u00e9.jsonl"), *PAIRS[2:], SKIPPED])
    rules = ("--fail-if", "both_fall_rate > 0.2", "--fail-if", "pairs < 1")
    outcome = entangle("gate", run, *rules, "--format", "sarif")
    assert outcome.code == 1
    log = read_sarif(outcome.out)
    breach, first, *_ = log.results
    assert (breach.rule_id, breach.level.value, breach.properties["observed"]) == (
        "both_fall_rate > 0.2",
        "error",
        1 / 3,
    )
    place = first.locations[0].physical_location
    assert (place.artifact_location.uri, place.region.start_line) == ("a%20b/%C3%A9.jsonl", 2)
    assert first.partial_fingerprints == {"pairId/v1": PAIRS[1].pair_id}
    # Of the three measured pairs, one broke the rule.
    assert [result.level.value for result in log.results] == ["error", "warning"]
    assert log.invocations[0].execution_successful
    assert [note["level"] for note in log.invocations[0].toolExecutionNotifications] == ["note"]


@pytest.mark.parametrize(("limit", "code"), [("1", 0), ("9", 5)])
def test_no_result_in_sarif_is_a_pass_only_where_the_tool_could_judge(
    entangle: Entangle, limit: str, code: int
) -> None:
    outcome = entangle("gate", write_run(PAIRS), "--fail-if", "pairs < 1", "--min-pairs", limit, "--format", "sarif")
    assert outcome.code == code
    log = read_sarif(outcome.out)
    assert not log.results
    assert log.invocations[0].execution_successful == (code == 0)


def test_annotations_point_to_lines_of_the_data(entangle: Entangle) -> None:
    records = [replace(PAIRS[1], file="a%,b:c.jsonl\n::error::x")]
    out = entangle("gate", write_run(records), "--fail-if", "pairs < 2", "--format", "github").out
    assert "file=a%25%2Cb%3Ac.jsonl\\u000a%3A%3Aerror%3A%3Ax,line=2,title=entangle pair::" in out
    assert [line.split()[0] for line in out.splitlines()] == ["::error", "::notice", "::warning"]
