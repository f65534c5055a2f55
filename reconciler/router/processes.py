"""The processes of one router: all listen on one port, and the kernel spreads clients over them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from types import FrameType

from reconciler.model.errors import ReconcilerError
from reconciler.router.server import RouterConfig, serve

LOOK_S = 0.2
BACKLOG = 1024
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
RESTART_PAUSE_S = 1.0
"""Between two starts of a process that died, so that a router that cannot start does not spin."""


class RouterPortTaken(ReconcilerError):
    """The router cannot listen where it was asked to: a taken port, or not our host."""

    code = "RT002"


def listen_on(host: str, port: int) -> socket.socket:
    """Return a socket on a port that others may share. Raises RouterPortTaken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise RouterPortTaken(
            f"router {host}:{port}", error.strerror or "cannot listen", remedy="--listen HOST:0"
        ) from None
    listener.setblocking(False)
    listener.listen(BACKLOG)  # who connects before the map is there waits instead of being refused
    return listener


def _is_free(host: str, port: int) -> None:
    """SO_REUSEPORT would let two routers of one user share a port unknowingly."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RouterPortTaken(
                f"router {host}:{port}", error.strerror or "cannot listen",
                remedy="--listen HOST:0",
            ) from None  # fmt: skip


def run_processes(config: RouterConfig) -> int:
    """Serve until SIGTERM or SIGINT; a process that dies is started again. Returns 0.

    Raises RouterPortTaken, NoMap.
    """
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s router %(message)s"
    )
    if config.port:
        _is_free(config.host, config.port)
    listener = listen_on(config.host, config.port)
    port = listener.getsockname()[1]
    config.users()  # mistakes are told before anything starts
    control = tempfile.mkdtemp(prefix="swr-")
    config = replace(config, port=port, control=control)
    print(f"router of {config.database} at {config.host}:{port}", flush=True)
    try:
        if config.processes == 1:
            serve(config, 0, listener)
            return 0
        return _supervise(config, listener)
    finally:
        shutil.rmtree(control, ignore_errors=True)


def _supervise(config: RouterConfig, listener: socket.socket) -> int:
    """Start the processes, pass signals on, and start again what dies."""
    # Each process has a socket of its own on the port, kept open here so that it can be restarted.
    more = (listen_on(config.host, config.port) for _ in range(1, config.processes))
    sockets = [listener, *more]
    processes = [_start(config, index, own) for index, own in enumerate(sockets)]
    stopping = False

    def pass_on(number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = stopping or number != signal.SIGHUP
        for process in processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, number)

    for number in _SIGNALS:
        signal.signal(number, pass_on)
    while not stopping or any(process.is_alive() for process in processes):
        time.sleep(LOOK_S)
        for index, process in enumerate(processes):
            if not stopping and not process.is_alive():
                time.sleep(RESTART_PAUSE_S)
                processes[index] = _start(config, index, sockets[index])
    return 0


def _start(config: RouterConfig, index: int, own: socket.socket) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=_child, args=(config, index, own))
    process.start()
    return process


def _child(config: RouterConfig, index: int, own: socket.socket) -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    try:
        serve(config, index, own)
    except ReconcilerError as problem:
        print(problem, file=sys.stderr)
        sys.exit(1)
