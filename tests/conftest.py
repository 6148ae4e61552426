"""Settings of the whole suite: no network, one thread, no chatter from the libraries."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How fast a machine draws examples and runs them says nothing about the code.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

REAL = Path(__file__).resolve().parents[2] / "shared" / "real"
"""Real checkpoints and data that developers may have beside the project; tests that use them skip without."""


@pytest.fixture(scope="session")
def real() -> Path:
    if not REAL.is_dir():
        pytest.skip("no real checkpoints and data beside the project")
    return REAL


@pytest.fixture(scope="session", autouse=True)
def quiet() -> None:
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
