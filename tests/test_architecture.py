"""Allowed imports between packages, checked in the source. All other imports fail."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "entangle_cli"

LEAVES = {"records", "errors"}
MAY_IMPORT = {
    "cli": {"api", "report", "cli", "__init__"},
    "api": {"diagnose", "store", "report", "analysis", "api"},
    "diagnose": {"data", "engine", "analysis", "diagnose"},
    "data": {"data"},
    "engine": {"engine"},
    "analysis": {"analysis"},
    "report": {"report"},
    "store": {"store"},
    "records": {"records"},
    "errors": set(),
    "docs": set(),
    "__init__": {"api"},
    "__main__": {"cli"},
}
ONLY_IN = {
    "torch": {
        "engine",
        "data.adapter",
        "data.checkpoint",
        "data.checkpoint_in_memory",
        "data.device",
        "data.model_config",
        "data.checkpoint_checks",
        "data.parameters",
        "data.planned_adapter",
        "data.learning_rates",
        "data.optimizer_state",
        "diagnose.scan",
        "diagnose.doctor",
        "diagnose.forecast",
        "diagnose.probes",
        "diagnose.training",
        "diagnose.rehearse",
        "diagnose.workers",
        "diagnose.tokens",
        "diagnose.inspect_model",
    },
    "ray": {"diagnose.workers"},
    "trl": {"diagnose.rehearse"},
    "peft": {"data.adapter", "data.planned_adapter"},
    "transformers": {"data", "api.training", "diagnose.rehearse.trainers"},
    "datasets": {"data"},
    "typer": {"cli"},
    "rich": {
        "cli",
        *(
            f"report.{name}"
            for name in (
                "consoles",
                "plan",
                "summary",
                "details",
                "verdict",
                "one_pair",
                "losses",
                "forecast",
                "probe_answers",
                "rehearsal",
                "tables",
                "inspection",
                "doctor",
                "filtering",
                "comparison",
                "trained",
                "tokens",
                "markdown",
                "explanation",
            )
        ),
    },
    "jinja2": {"report.page", "data.chat_template"},
    "pyarrow": {"store", "data.arrow_files", "data.arrow_pieces", "data.arrow_subset", "data.compression"},
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield name.removesuffix(".__init__"), ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the arrows"
            assert node.module is not None
            if node.module == "entangle_cli":
                yield from (f"entangle_cli.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize(("name", "tree"), list(modules()), ids=[name for name, _ in modules()])
def test_arrows(name: str, tree: ast.Module) -> None:
    allowed = MAY_IMPORT[name.split(".")[0]] | LEAVES
    for imported in imports(tree):
        root, *rest = imported.split(".")
        if root == "entangle_cli":
            target = "__init__" if not rest or rest[0].startswith("__") else rest[0]
            assert {target, ".".join(rest[:2])} & allowed, f"{name} imports {imported}"
        elif root in ONLY_IN:
            fenced = any(name == place or name.startswith(place + ".") for place in ONLY_IN[root])
            assert fenced, f"{name} imports {imported}"


@pytest.mark.parametrize(
    "statement",
    [
        "from entangle_cli.cli.app import run; run(['--help'])",
        "from entangle_cli.cli.app import run; run(['report', 'nowhere'])",
        "from entangle_cli.cli.app import run; run(['gate', 'nowhere', '--fail-if', 'both_fall_rate > 0.1'])",
        "import entangle_cli; entangle_cli.read",
        "from entangle_cli.cli.app import run; run(['explain', 'W-BOUNDARY'])",
        "import pkgutil, importlib, entangle_cli.diagnose.views as v; "
        "[importlib.import_module(f'{v.__name__}.{m.name}') for m in pkgutil.iter_modules(v.__path__)]",
        "from entangle_cli.cli.app import run; run(['inspect', 'sample_data/one_token.jsonl'])",
    ],
)
def test_reading_a_run_never_loads_the_heavy_libraries(statement: str) -> None:
    check = f"{statement}\nimport sys\nprint(sorted({{'torch', 'transformers', 'datasets'}} & sys.modules.keys()))"
    result = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert result.stdout.splitlines()[-1] == "[]"
