"""What other tools run: the steps of `action.yml` as GitHub's runner would, the hooks of `.pre-commit-hooks.yaml`."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import LONG, MODEL

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
HOOKS = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
BIN = Path(sys.executable).parent


class Runner:
    """GitHub's runner as far as a composite action's scripts go: inputs, outputs, `env`, bash with -eo pipefail."""

    def __init__(self, folder: Path, inputs: dict[str, str]) -> None:
        self.folder = folder
        defaults = {name: entry.get("default", "") for name, entry in ACTION["inputs"].items()}
        self.values = {f"inputs.{name}": value for name, value in (defaults | inputs).items()}
        (folder / "entangle").mkdir()
        (folder / "entangle" / "bin").symlink_to(BIN)

    def run(self, step_id: str) -> int:
        (step,) = [step for step in ACTION["runs"]["steps"] if step.get("id") == step_id]
        assert "${{" not in step["run"], "an expression in a script is a way to inject code"
        output = self.folder / "output"
        output.write_text("")
        environment = {name: self._filled(value) for name, value in step["env"].items()}
        outside = os.environ | {"RUNNER_TEMP": str(self.folder), "GITHUB_OUTPUT": str(output)}
        code = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            env=outside | environment,
            cwd=self.folder,
            check=False,
        ).returncode
        for line in output.read_text().splitlines():
            name, _, value = line.partition("=")
            self.values[f"steps.{step_id}.outputs.{name}"] = value
        return code

    def _filled(self, text: str) -> str:
        return re.sub(r"\$\{\{ (.+?) \}\}", lambda match: self.values[match[1]], text)

    def outputs(self) -> dict[str, str]:
        return {name: self._filled(entry["value"]) for name, entry in ACTION["outputs"].items()}


@pytest.mark.parametrize(
    ("rules", "code", "outcome"), [("both_fall_rate > 0.1\n\npairs < 1", 1, "failed"), ("pairs < 1", 0, "passed")]
)
def test_the_action_scans_and_gates(tmp_path: Path, rules: str, code: int, outcome: str) -> None:
    inputs = {"model": str(MODEL), "data": str(LONG), "scan-options": "--limit=6\n\n--dtype=float64", "fail-if": rules}
    runner = Runner(tmp_path, inputs)
    assert runner.run("scan") == 0
    assert runner.run("gate") == code
    assert runner.run("report") == 0
    outputs = runner.outputs()
    assert outputs["outcome"] == outcome
    assert json.loads(Path(outputs["sarif"]).read_text())["version"] == "2.1.0"
    assert json.loads((Path(outputs["run"]) / "summary.json").read_text())["rows"] == 6
    assert (tmp_path / "entangle-results" / "report.html").read_text().startswith("<!doctype html>")


def test_the_action_judges_a_run_that_is_there(tmp_path: Path) -> None:
    rule = "$(touch injected); pairs < 1"
    runner = Runner(tmp_path, {"run": str(tmp_path / "nowhere"), "fail-if": rule})
    assert runner.run("scan") == 0
    assert runner.run("gate") == 2  # no such metric; nothing was run
    assert not (tmp_path / "injected").exists()


@pytest.mark.parametrize(("row", "code"), [({"prompt": "a", "chosen": " b", "rejected": " c"}, 0), ({"text": "a"}, 5)])
def test_the_hook_refuses_rows_that_are_no_pairs(tmp_path: Path, row: dict[str, str], code: int) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text(json.dumps({"prompt": "a", "chosen": " d", "rejected": " e"}) + "\n" + json.dumps(row) + "\n")
    hook = HOOKS["entangle-inspect"]
    assert re.search(hook["files"], data.name)
    command, *words = shlex.split(hook["entry"])
    assert subprocess.run([BIN / command, *words, data], capture_output=True, check=False).returncode == code
    assert HOOKS["entangle-scan"]["stages"] == ["manual"]
