"""Writes example.ipynb: runs the cells below in a kernel and keeps their outputs.

python sample_data/make_notebook.py
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
NOTEBOOK = FOLDER / "example.ipynb"

CELLS = (
    """# Preference pairs, before a training

`entangle` measures how far the gradients of the chosen and of the rejected answer overlap, for every pair.
This notebook uses the sample data and the small model beside it. Put your own into the first call.""",
    """## Scan

One call measures every pair. A pair separates if a small step on it raises the chosen answer and lowers the other.""",
    """import entangle_cli
from entangle_cli import FilterRules, ScanSettings

run = entangle_cli.scan("model", "long_ending.jsonl", ScanSettings(include_text=True))
run""",
    "## Why, and what to do",
    """for reason in run.reasons:
    print(reason.sentence)
for step in run.next_steps:
    print("-", step.sentence)""",
    "## Look at a pair",
    """worst = run.worst(1)[0]
print(worst.prompt_text)
print("chosen:  ", worst.chosen_text)
print("rejected:", worst.rejected_text)
print(f"cosine {worst.cosine:.2f}, norm ratio {worst.norm_ratio:.2f}")""",
    """## Change the loss

The same measurements under other losses. Nothing is measured again.""",
    """for loss, numbers in {"sigmoid": {}, "simpo": {"beta": 2.0}, "sigmoid_sft": {"nll_weight": 0.0115}}.items():
    print(loss.ljust(12), run.under(loss, **numbers).verdict)""",
    """## Filter

Pairs that lower both answers are left out of a new file. In our trainings this did not help:
see `entangle explain training`.""",
    """from pathlib import Path
from tempfile import mkdtemp

kept = Path(mkdtemp()) / "kept.jsonl"
result = entangle_cli.filter_rows(run, "long_ending.jsonl", kept, FilterRules(drop=("movement == both_fall",)))
print(f"{result['kept']} of {result['rows']} rows are kept")""",
    "## Gate\n\nThe same rules as in CI.",
    """verdict = run.gate("both_fall_rate > 20%", "skipped_rate > 5%")
print(verdict.outcome.value)
for line in verdict.results:
    print("-", line.sentence)""",
)


def notebook() -> nbformat.NotebookNode:
    """The notebook without outputs. Cells that start with text are Markdown."""
    cells = []
    for number, source in enumerate(CELLS):
        is_code = not source.startswith("#")
        make = nbformat.v4.new_code_cell if is_code else nbformat.v4.new_markdown_cell
        cells.append(make(source, id=f"cell-{number}"))
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def executed() -> nbformat.NotebookNode:
    """The notebook with outputs. Times and versions of this machine are left out."""
    made = notebook()
    place = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(made, timeout=300, kernel_name="python3", resources=place).execute()
    for cell in made.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    made.metadata.language_info = {"name": "python"}
    return made


def main() -> None:
    """Write the notebook."""
    # A kernel needs no debugger here, and its files belong to this process.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    nbformat.write(executed(), NOTEBOOK)
    print(f"{NOTEBOOK}: {NOTEBOOK.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
