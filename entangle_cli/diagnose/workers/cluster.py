"""The Ray cluster of a scan: one that exists, or one on this machine that ends with the scan."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

from entangle_cli.diagnose.workers.sizing import Node, Resources
from entangle_cli.errors import UnfinishedError, UsageError
from entangle_cli.records.settings import WorkerSettings

CONNECTION_SECONDS = 10.0
"""Longest wait for an answer from the address of a cluster."""
OBJECT_STORE_BYTES = 256 * 2**20
"""Far more than the batches that travel at a time. Ray's default is a third of the memory."""

EVERYWHERE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray prints to standard output, between the lines of a report. The pool tells what matters.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}
"""Set before Ray is imported. Nothing is told to anyone."""

ON_THIS_MACHINE = {
    # Despite its name, this decides on every system whether Ray listens beyond the loopback address.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
}
"""Set before Ray is imported, to start a cluster that only this user can reach."""


@contextmanager
def connected(workers: WorkerSettings) -> Iterator[Resources]:
    """A Ray cluster for the duration of the context. Inside another such context, its cluster.

    Raises:
        UsageError: Ray is not installed, or the cluster cannot be joined.
        UnfinishedError: a cluster cannot be started on this machine.
    """
    _refuse_without_ray()
    address = workers.ray_address or os.environ.get("RAY_ADDRESS") or None
    is_local = address in (None, "local")
    own = {**ON_THIS_MACHINE, "RAY_AUTH_TOKEN": _token()} if is_local and _reads_our_settings() else {}
    with ExitStack() as stack:
        stack.enter_context(_environment({**EVERYWHERE, **own}))
        import ray

        if not ray.is_initialized():
            folder = stack.enter_context(_temporary_folder()) if is_local else None
            stack.callback(ray.shutdown)
            with _sigterm_kept():
                if folder is not None:
                    _start(workers, folder)
                else:
                    _join(str(address))
        yield _resources(ray)


def _resources(ray: Any) -> Resources:
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Resources([Node(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in alive])


def _refuse_without_ray() -> None:
    if find_spec("ray") is None:
        raise UsageError(
            "--workers: Ray is not installed",
            "the extra `ray`",
            "run: pip install 'entangle-cli[ray]', or leave --workers out",
        )


def _start(workers: WorkerSettings, folder: str) -> None:
    import ray

    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        ray.init(
            address="local",
            num_cpus=max(num_cores, (workers.num_workers or 0) * (workers.threads_per_worker or 1)),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=folder,
        )
    except Exception as error:  # Ray raises many types
        raise UnfinishedError(
            f"Ray did not start: {_first_line(error)}",
            "a Ray cluster on this machine",
            "leave --workers out, or start a cluster with `ray start --head` and give --ray-address",
        ) from error


def _join(address: str) -> None:
    import ray

    try:
        _connect(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises many types
        raise UsageError(
            f"Ray cluster {address}: {_first_line(error)}",
            "HOST:PORT of a running cluster with this machine in it, the same Ray and Python, and its token",
            "start it with `ray start --head`, set RAY_AUTH_TOKEN to its token, or leave out the address",
        ) from error


def _connect(address: str) -> None:
    """Open a connection and close it. Ray would try for minutes.

    Raises:
        OSError: there is nothing at this address.
        ValueError: the address has another form.
    """
    if address == "auto":
        return
    host, separator, port = address.rpartition(":")
    if not separator or "/" in host:
        raise ValueError("not HOST:PORT")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECTION_SECONDS):
        pass


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables that are not set, for the duration of the context."""
    missing = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Keep the handler of SIGTERM. Ray sets its own when it starts, and the scan would end without a message."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as end:  # from Ray's handler
        raise KeyboardInterrupt from end
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)


def _reads_our_settings() -> bool:
    """Whether Ray has, or will have, the settings of `ON_THIS_MACHINE`. It reads them when it is imported.

    A program that imported Ray before, or joined a cluster, gets a cluster with Ray's own settings.
    """
    constants = sys.modules.get("ray._private.ray_constants")
    return constants is None or not getattr(constants, "ENABLE_RAY_CLUSTER", True)


@cache
def _token() -> str:
    """A secret for the clusters of this process. Ray reads it only once."""
    return secrets.token_hex(32)


@contextmanager
def _temporary_folder() -> Iterator[str]:
    """A folder for Ray's sockets and logs. It is near the root: the path of a socket has at most 107 characters."""
    base = "/tmp" if os.access("/tmp", os.W_OK) else None
    folder = tempfile.mkdtemp(prefix="entangle-ray-", dir=base)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
