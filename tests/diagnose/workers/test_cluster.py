"""Errors before Ray has started."""

from __future__ import annotations

import socket

import pytest

from entangle_cli.diagnose.workers import cluster
from entangle_cli.errors import UsageError
from entangle_cli.records.settings import WorkerSettings


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    with (
        pytest.raises(UsageError, match=r"Ray is not installed\n.*extra `ray`\n.*pip install 'entangle-cli\[ray\]'"),
        cluster.connected(WorkerSettings(2)),
    ):
        pass


@pytest.mark.parametrize("address", ["ray://somewhere:10001", "somewhere", "127.0.0.1:x"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with (
        pytest.raises(UsageError, match=f"Ray cluster {address}: "),
        cluster.connected(WorkerSettings(2, ray_address=address)),
    ):
        pass


def test_an_address_without_a_cluster_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UsageError, match=f"Ray cluster {address}: .*refused"), cluster.connected(WorkerSettings(2)):
        pass
