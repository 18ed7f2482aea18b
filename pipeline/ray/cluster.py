"""Connecting to a Ray cluster, or starting an instance on this machine for the length of one command."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import import_module
from typing import Any

from ...cache.errors import MedalError

__all__ = ["connected", "sentence"]

_CONNECT = 5.0  # seconds
# What Ray's sockets have as names below its folder, of the 107 bytes that Unix allows for all of it.
_SOCKET_NAME = 62


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Give a context whose value is the module ray, connected; what was connected before stays so.

    Parameters
    ----------
    address : HOST:PORT of a cluster, or ``auto`` for the one that runs on this machine; None = what RAY_ADDRESS says,
        or else an instance of this process's own, which ends with the context

    Raises
    ------
    MedalError
        There is no Ray, or no cluster that can be used from here.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    with ExitStack() as after:
        if address == "local":
            after.enter_context(_environment(_local_environment()))
        elif address != "auto":
            _knock(address)
        ray = _import_ray()
        if not ray.is_initialized():
            options: dict[str, Any] = {}
            if address == "local":
                # Logs and sockets, else left under /tmp/ray for ever.
                roomy = len(tempfile.gettempdir()) + len("/medal-12345678/") + _SOCKET_NAME <= 107
                folder = tempfile.TemporaryDirectory(
                    prefix="medal-",
                    dir=None if roomy else "/tmp",  # noqa: S108 - a folder of its own in it
                    ignore_cleanup_errors=True,
                )
                options = {"include_dashboard": False, "_temp_dir": after.enter_context(folder)}
            after.callback(ray.shutdown)
            _initialise(ray, address, options)
        yield ray


def sentence(error: Exception) -> str:
    """Return the kind of an error and the start of what it says, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".rstrip(". :")


def _import_ray() -> Any:
    try:
        return import_module("ray")
    except ImportError as error:
        raise MedalError(
            f"--engine ray needs the package 'ray', which cannot be imported ({error}); "
            'pip install "medalmighty[ray]".'
        ) from error


def _initialise(ray: Any, address: str, options: Mapping[str, Any]) -> None:
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
    except Exception as error:
        if options:
            said = (
                f"A local Ray instance cannot be started ({sentence(error)}); check that there is enough memory and "
                "disk"
            )
            raise MedalError(f"{said} in the temporary folder '{tempfile.gettempdir()}'.") from error
        raise MedalError(
            f"Ray at '{address}' cannot be used from here ({sentence(error)}); run medal on a machine of the cluster, "
            "where ray start was run."
        ) from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, handler)  # Ray's own would end the process without a word


def _knock(address: str) -> None:
    """Refuse an address at which nobody answers, for which Ray itself would wait minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal() or int(port) > 65535:
        raise MedalError(
            f"--address '{address}' is not the address of a Ray cluster; expected HOST:PORT as ray start prints it, "
            "or auto for the cluster on this machine."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT).close()
    except OSError as error:
        raise MedalError(
            f"No Ray cluster answers at '{address}' ({error.strerror or error}); start one there with ray start "
            f"--head --port {port}, or leave --address out to use only this machine."
        ) from error


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that the user has not, for as long as the context lasts."""
    fresh = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(fresh)
    try:
        yield
    finally:
        for name in fresh:
            os.environ.pop(name, None)


@cache  # Ray reads it only once in a process
def _token() -> str:
    return secrets.token_hex(32)


def _local_environment() -> dict[str, str]:
    """Return what makes a local instance listen to this machine only, with a password that no file holds."""
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # the way to 127.0.0.1, which ray.init has no argument for
    return {
        # Ray reads that one when it is imported: set later, its servers would listen where this process does not ask.
        **({} if "ray" in sys.modules else loopback),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": _token(),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
