"""A TCP proxy that delays, stalls and cuts connections. It runs in a process of its own.

Clients do not know of the proxy. A process that is led through it calls `detour`, which maps the ports of the servers
to those of the proxy. The mapping is at the socket, below the drivers and what they know about hosts and ports.
"""

from __future__ import annotations

import multiprocessing
import selectors
import socket
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_CHUNK = 256 * 1024
_LINGER = struct.pack("ii", 1, 0)  # makes a close reset the connection
_detours: dict[int, int] = {}


class _DetouredSocket(socket.socket):
    def connect(self, address: Any, /) -> None:
        if self.family == socket.AF_INET:
            address = (address[0], _detours.get(address[1], address[1]))
        super().connect(address)


def detour(ports: Mapping[int, int]) -> None:
    """Redirect new connections of this process to 127.0.0.1: from each port of the mapping to the port given for it."""
    _detours.clear()
    _detours.update(ports)
    socket.socket = _DetouredSocket  # type: ignore[misc]  # every driver creates its sockets by this name


class Proxy:
    """The handle on the proxy's process. A line has a name, and leads to one or several ports."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other,), daemon=True, name="chaos-proxy")
        self._process.start()
        other.close()
        self._lock = threading.Lock()

    def lead(self, line: str, port: int) -> int:
        """Let a line also lead to a port of 127.0.0.1. Return the port at which the line listens for it."""
        return self._ask("lead", line, port)

    def slow(self, line: str, milliseconds: float) -> None:
        """Delay everything by so many milliseconds in each direction. 0 ends the delay."""
        self._ask("slow", line, milliseconds)

    def stall(self, line: str, *, stalled: bool) -> None:
        """Begin or end a stall. During it nothing passes, and nothing is lost."""
        self._ask("stall", line, stalled)

    def half_open(self, line: str, *, opened: bool) -> None:
        """Begin or end letting only requests pass. At the end, reset every connection and drop the waiting answers."""
        self._ask("half-open", line, opened)

    def count(self, line: str) -> int:
        """Count the connections made through the line so far."""
        return self._ask("count", line, None)

    def cut(self, line: str) -> None:
        """Reset every connection, and drop the data under way."""
        self._ask("cut", line, None)

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(5)
        self._process.kill()

    def _ask(self, verb: str, line: str, value: float | None) -> int:
        with self._lock:
            self._pipe.send((verb, line, value))
            answer: int = self._pipe.recv()
        return answer


class _Line:
    """The present state of one line."""

    def __init__(self) -> None:
        self.doors: dict[int, _Door] = {}
        self.delay = 0.0
        self.stalled = False
        self.accepted = 0
        self.half_open = False
        self.ends: set[_End] = set()


class _Door:
    """A line's listener for one port."""

    def __init__(self, line: _Line, port: int) -> None:
        self.line = line
        self.target = port
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.listener.settimeout(0)
        self.port: int = self.listener.getsockname()[1]


class _End:
    """One of the two ends of a connection, with the data on its way to it."""

    def __init__(self, line: _Line, sock: socket.socket, *, client: bool) -> None:
        self.line = line
        self.sock = sock
        self.client = client  # whether the peer is the client; else it is the server
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.other: _End = self


class _Server:
    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lines: dict[str, _Line] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(pipe, selectors.EVENT_READ, None)
        self._late: set[_End] = set()  # ends with data on its way to them

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select(0.001 if self._late else None):
                if key.data is None:
                    if not self._obey():
                        return
                elif isinstance(key.data, _Door):
                    self._accept(key.data)
                else:
                    self._read(key.data)
            for end in list(self._late):
                self._write(end)

    def _obey(self) -> bool:
        try:
            verb, name, value = self._pipe.recv()
        except (EOFError, OSError):
            return False
        line, answer = self._lines.setdefault(name, _Line()), 0
        match verb:
            case "lead":
                if value not in line.doors:
                    line.doors[value] = _Door(line, value)
                    self._selector.register(line.doors[value].listener, selectors.EVENT_READ, line.doors[value])
                answer = line.doors[value].port
            case "count":
                answer = line.accepted
            case "slow":
                line.delay = value / 1000
            case "stall":
                line.stalled = value
            case "half-open":
                line.half_open = value
                if not value:
                    self._cut(line)
            case "cut":
                self._cut(line)
        self._pipe.send(answer)
        return True

    def _accept(self, door: _Door) -> None:
        try:
            near, _ = door.listener.accept()
        except OSError:
            return
        try:
            far = socket.create_connection(("127.0.0.1", door.target), timeout=1)
        except OSError:  # the server is down, so the client is reset
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            near.close()
            return
        door.line.accepted += 1
        one, two = _End(door.line, near, client=True), _End(door.line, far, client=False)
        one.other, two.other = two, one
        for end in (one, two):
            end.sock.settimeout(0)
            end.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            door.line.ends.add(end)
            self._selector.register(end.sock, selectors.EVENT_READ, end)

    def _read(self, end: _End) -> None:
        if end not in end.line.ends:
            return  # closed since the selector found it
        try:
            data = end.sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(end)
            return
        to = end.other
        to.waiting.append((time.monotonic() + end.line.delay, data))
        self._late.add(to)
        self._write(to)

    def _write(self, end: _End) -> None:
        now = time.monotonic()
        held = end.line.stalled or (end.line.half_open and end.client)
        while end.waiting and not held and end.waiting[0][0] <= now:
            due, data = end.waiting.popleft()
            try:
                sent = end.sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._close(end)
                return
            if sent < len(data):
                end.waiting.appendleft((due, data[sent:]))
                return
        if not end.waiting:
            self._late.discard(end)

    def _cut(self, line: _Line) -> None:
        for end in list(line.ends):
            self._close(end)

    def _close(self, end: _End) -> None:
        for each in (end, end.other):
            self._late.discard(each)
            each.waiting.clear()
            if each in each.line.ends:
                each.line.ends.remove(each)
                self._selector.unregister(each.sock)
                with suppress(OSError):
                    each.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
                each.sock.close()


def _serve(pipe: Connection) -> None:
    _Server(pipe).run()
