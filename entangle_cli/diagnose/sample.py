"""The sample data and the small model that come with the package."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

from entangle_cli.errors import UsageError

MODEL = "model"
PAIRS = ("long_ending.jsonl", "short_ending.jsonl", "one_token.jsonl")


def sample_folder() -> Path:
    """The folder with the sample data: in the package, or in the repository around it."""
    package = Path(str(resources.files("entangle_cli"))).resolve()
    inside = package / "sample_data"
    return inside if inside.is_dir() else package.parent / "sample_data"


def copy_sample(target: Path) -> tuple[Path, Path]:
    """Copy the model and the pairs. Files that are there stay as they are.

    Returns:
        The copies of the model and of the pairs with a long ending.
    Raises:
        UsageError: the target cannot be written.
    """
    source = sample_folder()
    try:
        (target / MODEL).mkdir(parents=True, exist_ok=True)
        names = [*(f"{MODEL}/{path.name}" for path in sorted((source / MODEL).iterdir())), *PAIRS]
        for name in names:
            if not (target / name).exists():
                part = target / f"{name}.part"
                shutil.copyfile(source / name, part)
                part.rename(target / name)
    except OSError as error:
        raise UsageError(
            f"{target}: {error.strerror or error}", "a folder that can be written", "give another folder"
        ) from error
    return target / MODEL, target / PAIRS[0]
