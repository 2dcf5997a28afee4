"""Programs that publish through a buffer and end, each a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from testkit.leftovers import ROOT
from testkit.patient_publishing import IN_A_CHILD, PUBLISH_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cachekeeper.devservers import RedisServer

OPTIONS = "max_milliseconds=3_600_000, on_error=lambda error, n: print(type(error).__name__, n)"
"""Nothing goes by itself: what arrives, a full message or the end has published."""

PROGRAM = (
    IN_A_CHILD
    + """
import atexit, multiprocessing, os, signal, sys, threading, time
from cachekeeper.publishing.buffered import BufferedPublisher
from producers import UserDeleted

buffered = BufferedPublisher({options})

def fill(count, first=0):
    for user in range(first, first + count):
        buffered.publish(UserDeleted(user_id=str(user)))

def wait():
    print("ready", flush=True)
    be_there()

def be_there():
    # Not `signal.pause`: it sleeps for ever where the signal came just before, and Python has not seen it yet.
    while True:
        time.sleep(0.01)
"""
)


@contextmanager
def start(broker: RedisServer, arguments: list[str], seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A Python process with settings for this broker; killed at the end, where the test has failed."""
    settings = {"CACHEKEEPER_BROKER_URL": broker.url, "CACHEKEEPER_PUBLISH_TIMEOUT_SECONDS": str(seconds)}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, **settings},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)  # its workers too


@contextmanager
def run(
    broker: RedisServer, code: str, seconds: float = PUBLISH_SECONDS, *, options: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """`PROGRAM`, then `code`, with these options of its buffer beside `OPTIONS`."""
    program = PROGRAM.format(options=f"{OPTIONS}, {options}" if options else OPTIONS)
    with start(broker, ["-c", program + code], seconds) as process:
        yield process


def is_ready(process: subprocess.Popen[str]) -> bool:
    """Waits for the line that `wait` prints."""
    assert process.stdout is not None
    return process.stdout.readline() == "ready\n"
