"""Free ports on 127.0.0.1."""

import secrets
import socket

FIRST, LAST = 15_000, 31_999
"""Below the range that Linux (32768) and macOS (49152) give to outgoing connections.

In that range a server that is down could not come back on its own port while a connection to anywhere happens to use
the number; and a client that keeps dialling the dead port can even end up connected to itself.
"""
ATTEMPTS = 200


def free_port() -> int:
    """A port that nobody listens on at this moment.

    Somebody may take it before the server does, so who starts a server has to look at whether it really got the port
    (`ServerProcess.start` does, and tries another). The choice is random, so that two test runs seldom meet.

    Raises:
        OSError: none was found.
    """
    for _ in range(ATTEMPTS):
        port = FIRST + secrets.randbelow(LAST - FIRST + 1)
        with socket.socket() as probe:
            # Without this, a connection that waits in TIME_WAIT looks like a listener; the servers set it as well.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port between {FIRST} and {LAST} in {ATTEMPTS} attempts")
