"""Taps on the wire: a hook of the test is called for every command on its way to a server.

So a test forces an interleaving: the actions of the hook happen exactly between two commands.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any, Self

import pymongo
from pymongo import monitoring

from cachekeeper.devservers import MongoServer, RedisServer

Words = Sequence[bytes]


class Cut(Exception):
    """Raised by a hook: the connection breaks here."""


class RedisTap:
    """A proxy that passes one command at a time to Redis, as if commands of other clients came in between.

    Commands of a pipeline arrive one by one, too. Only MULTI and scripts are one step.

    Args:
        server: the real server.
    """

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self.before: Callable[[Words], None] = lambda _words: None
        """Called before a command reaches the server; `Cut` keeps it from getting there."""
        self.after: Callable[[Words], None] = lambda _words: None
        """Called when the server has answered, before the client gets the answer; `Cut` loses the answer."""
        self.commands: list[list[bytes]] = []
        self._errors: list[BaseException] = []
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def port(self) -> int:
        """The port on 127.0.0.1 at which the proxy listens."""
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """The URL of the proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    def names(self) -> list[str]:
        """Return the commands that have passed, without those that only set up a connection."""
        names = [words[0].decode().upper() for words in self.commands]
        return [name for name in names if name not in {"HELLO", "CLIENT", "SELECT"}]

    def drop_connections(self) -> None:
        """End all open connections, as they end when the server stops."""
        for open_socket in list(self._open):
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            self._open.add(client)
            self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, socket.create_connection(("127.0.0.1", self._server.port)) as server:
                self._open.add(server)
                for one in (client, server):
                    # Answers are sent one by one, and must not wait until the previous one is acknowledged.
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with client.makefile("rb") as asked, server.makefile("rb") as answered:
                    while words := _command(asked):
                        self.before(words)
                        self.commands.append(words)
                        server.sendall(_encoded(words))
                        answer = _answer(answered)
                        self.after(words)
                        client.sendall(answer)
                self._open.discard(server)
        except (Cut, OSError):
            pass  # one end has closed the connection
        except BaseException as error:  # noqa: BLE001  # a hook's own failure fails the test
            self._errors.append(error)
        finally:
            self._open.discard(client)


def is_script(words: Words, sha: str) -> bool:
    """Return whether a command runs the script with this SHA-1, even if the server does not know the script."""
    return words[0].upper() == b"EVALSHA" and words[1] == sha.encode()


def _command(asked: IO[bytes]) -> list[bytes]:
    header = asked.readline()
    if not header:
        return []
    assert header[:1] == b"*", header
    words = []
    for _ in range(int(header[1:])):
        size = int(asked.readline()[1:])
        words.append(asked.read(size))
        asked.read(2)
    return words


def _encoded(words: Words) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def _answer(answered: IO[bytes]) -> bytes:
    """Read one whole answer, RESP2 or RESP3."""
    line = answered.readline()
    if not line:
        raise Cut
    kind, rest = line[:1], line[1:]
    if kind in b"$!=" and int(rest) >= 0:
        return line + answered.read(int(rest) + 2)
    if kind in b"*~>%":
        parts = max(int(rest), 0) * (2 if kind == b"%" else 1)
        return line + b"".join(_answer(answered) for _ in range(parts))
    return line


class MongoTap(monitoring.CommandListener):
    """Notes the commands of a pymongo client. Calls `before` in the client's own thread, before each is sent.

    Args:
        server: the real server.
        name: the name of the database.
        options: options of the client.
    """

    def __init__(self, server: MongoServer, name: str, **options: Any) -> None:
        self.before: Callable[[monitoring.CommandStartedEvent], None] = lambda _event: None
        self.commands: list[tuple[str, str]] = []
        self._errors: list[BaseException] = []
        self._client = pymongo.MongoClient[Any](
            server.url_of(name), event_listeners=[self], **{"uuidRepresentation": "standard", **options}
        )
        self.database = self._client[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        if self._errors:
            raise self._errors[0]

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        collection = event.command.get(event.command_name)
        if not isinstance(collection, str):
            return  # a command of the driver itself
        self.commands.append((event.command_name, collection))
        try:
            self.before(event)
        except BaseException as error:  # noqa: BLE001  # pymongo would print it and go on
            self._errors.append(error)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Do nothing: only the start of a command is noted."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Do nothing: only the start of a command is noted."""

    def of(self, collection: str) -> list[str]:
        """Return the names of the commands on a collection so far."""
        return [name for name, of in self.commands if of == collection]
