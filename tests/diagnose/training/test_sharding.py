"""Models that torch itself has spread over processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from entangle_cli.diagnose.training.sharding import refuse_sharded
from entangle_cli.errors import ModelError


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A group of one process."""
    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))


@pytest.mark.usefixtures("group")
def test_sharded_models_are_refused() -> None:
    sharded = model()
    fully_shard(sharded, mesh=distributed.init_device_mesh("cpu", (1,)))
    with pytest.raises(ModelError, match=r"0\.weight is a DTensor, as with FSDP2"):
        refuse_sharded(sharded)
    with pytest.raises(ModelError, match="FSDP: the weights"):
        refuse_sharded(FullyShardedDataParallel(model(), device_id=torch.device("cpu")))


@pytest.mark.usefixtures("group")
def test_whole_models_pass() -> None:
    refuse_sharded(model())
    refuse_sharded(DistributedDataParallel(model()))
