"""The server's process: where it listens, what it logs, and how it stops.

A first signal lets running answers finish within a stated time and turns new ones away; a second one ends at once.
"""

import logging
import signal
import socket
import sys
from dataclasses import replace

import uvicorn

from ..errors import WrongValue
from .app import create_app
from .engine import Engine
from .limits import Limits
from .server import Server, ServerConfig
from .wire import PatientProtocol

BACKLOG = 2048
MOST_HEAD = 64 * 1024  # bytes of a request's head
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Process(uvicorn.Server):
    """uvicorn's server, which says that it is not ready as soon as it is asked to stop."""

    def __init__(self, settings: uvicorn.Config, server: Server):
        super().__init__(settings)
        self.server = server

    def handle_exit(self, sig, frame) -> None:
        """A signal."""
        self.server.is_stopping = True
        super().handle_exit(sig, frame)


def serve(engine: Engine, config: ServerConfig, limits: Limits, host: str, port: int, stop_seconds: float) -> None:
    """Serve until a signal. Raises ValueError for an address that cannot be listened on."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    listener = listen(host, port)
    config = known_there(config, host)
    app = create_app(engine, config, limits)
    address, number = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    keys = "" if config.keys or host in LOOPBACK else "; anyone who reaches it may ask (no --api-key)"
    print(f"{config.name} on http://{shown}:{number}{keys}", file=sys.stderr, flush=True)
    # uvicorn sends the signals that it stopped for once more at its end: they are obeyed by then, and the status is 0.
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: None)
    Process(settings_of(app, limits, stop_seconds), app.state.server).run(sockets=[listener])


def known_there(config: ServerConfig, host: str) -> ServerConfig:
    """The settings with the names that a server at an address has, where none are given."""
    return replace(config, hosts=LOOPBACK) if host in LOOPBACK and not config.hosts else config


def settings_of(app, limits: Limits, stop_seconds: float) -> uvicorn.Config:
    """uvicorn's settings."""
    return uvicorn.Config(
        app,
        http=type("Protocol", (PatientProtocol,), {"seconds": limits.body_seconds}),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        h11_max_incomplete_event_size=MOST_HEAD,
        timeout_graceful_shutdown=max(1, round(stop_seconds)),
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        raise WrongValue(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port") from error
    return found
