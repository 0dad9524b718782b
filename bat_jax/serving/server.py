"""The server around the application, uvicorn: it stops in two steps, so that nobody loses an answer."""

import logging
import socket
from types import FrameType

import uvicorn

from bat_jax.serving.gate import Gate


class DrainingServer(uvicorn.Server):
    """On the first signal it refuses what is new (503) and answers what it took; on the second it ends at once."""

    def __init__(self, gate: Gate):
        """Serve an application."""
        # A request that has been answered leaves its connection open for this long.
        super().__init__(uvicorn.Config(gate, log_config=None, access_log=False, timeout_keep_alive=30, ws="none"))
        self._gate = gate
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._gate.is_stopping:
            self.force_exit = True
            super().handle_exit(sig, frame)
        else:
            self._gate.stop(lambda: super(DrainingServer, self).handle_exit(sig, frame))


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket with its address, so that one that is taken is known before a model is loaded.

    Raises:
      ValueError: the address cannot be had.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"host={host} port={port}: {reason}") from None
    return bound


def url_of(bound: socket.socket) -> str:
    """Return the address for a browser."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
