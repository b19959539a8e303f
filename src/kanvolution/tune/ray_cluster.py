"""Ray on this machine, or the connection to a running cluster, with errors that come soon and say what to do."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator

from kanvolution.extras import require

_SECONDS = 5.0
"""How long a cluster may take to answer. Ray's own attempts go on for two minutes."""


@contextlib.contextmanager
def connected(address: str | None, cpus: float, gpus: float | None) -> Iterator[None]:
    """Ray within the block; one that the program has already started is used, and left as it is.

    Args:
        address: HOST:PORT of a cluster's head, "auto", or None for this machine alone.
        cpus, gpus: of one trial.

    Raises:
        ValueError: numbers or an address that cannot be, or no machine has so many CPUs and GPUs.
        ConnectionError: there is no cluster at the address.
    """
    for name, value in (("cpus_per_trial", cpus), ("gpus_per_trial", gpus or 0.0)):
        if value < 0 or (value > 1 and value != int(value)):
            raise ValueError(f"{name} (={value}) must be a whole number, or a share between 0 and 1")
    if address is not None:
        check_address(address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = require("ray", "tune")
    started = not ray.is_initialized()
    if started:
        _start(address)
    try:
        _check_resources(cpus, gpus or 0.0)
        yield
    finally:
        if started:
            ray.shutdown()


def check_address(address: str) -> None:
    """Try the address, before Ray does.

    Raises:
        ValueError: it is none.
        ConnectionError: nothing answers there.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "//" in address or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(
            f"address (={address!r}) must be HOST:PORT of the head of a Ray cluster, e.g. 10.0.0.1:6379, or auto; the "
            "command runs on one of its machines"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS).close()
    except OSError as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, reason: str) -> ConnectionError:
    return ConnectionError(
        f"address (={address!r}): no Ray cluster answers there ({' '.join(reason.split())}). Start one with `ray start "
        "--head --port=6379`, or correct the address (`ray status` on its head tells it), or leave it out to use this "
        "machine alone"
    )


def _start(address: str | None) -> None:
    ray = require("ray", "tune")
    try:
        ray.init(
            address=address or "local",
            configure_logging=True,
            logging_level=logging.ERROR,
            log_to_driver=False,
            **({} if address else {"include_dashboard": False}),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address is None:
            raise RuntimeError(f"Ray does not start on this machine: {error}") from error
        raise _no_cluster(address, str(error)) from error


def gpus_or_default(gpus: float | None) -> float:
    """GPUs of one trial where none are asked for: one if the cluster has some."""
    if gpus is not None:
        return gpus
    return min(1.0, require("ray", "tune").cluster_resources().get("GPU", 0.0))


def _check_resources(cpus: float, gpus: float) -> None:
    """Ray would wait for a machine that has what is asked for, without end."""
    machines = [node["Resources"] for node in require("ray", "tune").nodes() if node["Alive"]]
    if not any(m.get("CPU", 0.0) >= cpus and m.get("GPU", 0.0) >= gpus for m in machines):
        most = {kind: max((m.get(kind, 0.0) for m in machines), default=0.0) for kind in ("CPU", "GPU")}
        raise ValueError(
            f"no machine has cpus_per_trial (={cpus:g}) and gpus_per_trial (={gpus:g}); the largest has "
            f"{most['CPU']:g} CPUs and {most['GPU']:g} GPUs. Ask for less"
        )
