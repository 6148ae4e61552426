"""Copies to the host."""

from __future__ import annotations

import torch

from entangle_cli.engine.host_copy import HostCopy


def test_tensors_keep_their_names_shapes_and_values() -> None:
    tensors = {"a": torch.randn(3, 2), "b": torch.randn(()), "c": torch.randn(0, 4)}
    found = HostCopy(tensors).read()
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_what_has_no_values_is_read_as_the_bound() -> None:
    found = HostCopy({"a": torch.empty(2, 2, dtype=torch.long, device="meta")}, bound=7).read()
    assert found["a"].tolist() == [[7, 7], [7, 7]]
