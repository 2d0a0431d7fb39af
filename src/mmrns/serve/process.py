"""The service as a process: a socket, a server, and an end that waits for what is being answered."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from mmrns.errors import MmrnsError


def listen(host: str, port: int) -> socket.socket:
    """A socket that clients can come to.

    Raises:
        MmrnsError: the port is taken, or the host is no address of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # A port whose last connections are still being closed may be taken again.
        return socket.create_server((host, port), family=family, backlog=512, reuse_port=False)
    except OSError as error:
        reason = error.strerror or str(error)
        raise MmrnsError(f"cannot listen at {host}, port {port} ({reason}); choose another --port or --host") from error


def address_of(sock: socket.socket) -> str:
    """The address of a socket as a browser takes it."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """A server that says when it has started."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]):
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        if self.started:
            self._ready()


def run_until_stopped(app: Any, sock: socket.socket, seconds: float, ready: Callable[[], None]) -> None:
    """Answer until SIGTERM or SIGINT comes; then answer what was asked, and return.

    Args:
        app: ASGI.
        sock: where clients come.
        seconds: that open questions are waited for at the end.
        ready: called when the first question can come.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=int(seconds) + 5,
        lifespan="on",
        ws="none",
        server_header=False,
    )
    server = _Server(config, ready)

    def stop(number: int, frame: object) -> None:
        server.should_exit = True

    # uvicorn's own handlers hand each signal on to those that were there, at the end.
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[sock])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if not server.started:
        raise MmrnsError("the service could not be started; its log says why")
