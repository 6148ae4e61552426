"""Commands to copy name the loss that a person looks at."""

from __future__ import annotations

from tests.cli.conftest import LONG, MODEL, Entangle

KTO = ("--loss", "kto", "--loss-option", "chosen_weight=1.5")


def commands_of(text: str) -> list[str]:
    return [line[line.index("entangle ") :] for line in text.splitlines() if " entangle " in line]


def test_a_report_under_another_loss_passes_it_on(entangle: Entangle) -> None:
    entangle("scan", MODEL, LONG, "--limit", "8", "-q", "-o", "run")
    commands = commands_of(entangle("report", "run", *KTO, "--verbose").out)
    kinds = {command.split()[1]: command for command in commands if "--loss ipo" not in command}
    assert {"filter", "forecast"} <= kinds.keys()
    for name in ("filter", "forecast"):
        assert "--loss kto" in kinds[name]
        assert "--loss-option chosen_weight=1.5" in kinds[name]
    assert any(command.startswith("entangle report run --loss kto") and "--write" in command for command in commands)


def test_the_loss_of_the_scan_is_left_out_where_the_run_knows_it(entangle: Entangle) -> None:
    entangle("scan", MODEL, LONG, "--limit", "8", "-q", "-o", "run", *KTO)
    commands = commands_of(entangle("report", "run", "--verbose").out)
    assert all("kto" not in command for command in commands if command.split()[1] == "filter")
    assert all("--loss kto" in command for command in commands if command.split()[1] == "forecast")


def test_a_gates_next_commands_show_its_loss_and_pairs_that_broke_the_rule(entangle: Entangle) -> None:
    entangle("scan", MODEL, LONG, "--limit", "8", "-q", "-o", "run")
    for movement in ("both_fall", "both_rise"):
        outcome = entangle("gate", "run", *KTO, "--fail-if", f"{movement}_rate > 0")
        if outcome.code == 1:
            worst = next(line for line in outcome.out.splitlines() if line.startswith("worst:"))
            assert worst.count(movement.replace("_", " ")) == worst.count("line ")
            assert "entangle show run --loss kto" in outcome.out
