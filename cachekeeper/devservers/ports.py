"""Free ports on 127.0.0.1."""

import secrets
import socket

FIRST, LAST = 15_000, 31_999
"""Ports below the range that Linux (from 32768) and macOS (from 49152) use for outgoing connections.

In that range, a server that is down could not restart on its port while some outgoing connection uses the number. A
client that keeps dialling the dead port could even connect to itself.
"""
ATTEMPTS = 200


def free_port() -> int:
    """Return a port on which nothing listens at this moment.

    Another process may take it before the server does. So the caller must check that the server really got the port
    (`ServerProcess.start` does, and tries another). The choice is random, so that two test runs rarely choose the same.

    Raises:
        OSError: no free port was found.
    """
    for _ in range(ATTEMPTS):
        port = FIRST + secrets.randbelow(LAST - FIRST + 1)
        with socket.socket() as probe:
            # Without this, a connection in TIME_WAIT looks like a listener. The servers set this option too.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"found no free port from {FIRST} to {LAST} in {ATTEMPTS} attempts; end programs that listen there")
