"""Find running stacks: each keeps a file in its temporary directory, from which another shell reads its variables.

A file is valid while the process that wrote it holds a lock on it. The kernel drops the lock when the process ends,
however it ends. A process id would not do: another process may have it by now.
"""

import fcntl
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cachekeeper.devservers.guardian import PREFIX

_FILE = "running.json"


@dataclass(frozen=True, slots=True)
class RunningStack:
    """A running stack.

    Attributes:
        pid: the process that runs it.
        started: when it became ready, in seconds since 1970.
        environment: the variables with which programs reach its servers.
        directory: the directory in which it was started, with links resolved; empty if an older version started it.
    """

    pid: int
    started: float
    environment: Mapping[str, str]
    directory: str = ""


@contextmanager
def published(environment: Mapping[str, str], directory: Path) -> Iterator[None]:
    """Let other processes find the stack of this process while the context lasts.

    Args:
        environment: the variables with which programs reach its servers.
        directory: the stack's temporary directory.
    """
    path = directory / _FILE
    draft = path.with_suffix(".draft")
    with draft.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        json.dump(asdict(RunningStack(os.getpid(), time.time(), dict(environment), str(Path.cwd()))), file)
        file.flush()
        draft.rename(path)  # it is locked and complete before another process can see it
        try:
            yield
        finally:
            path.unlink()


def running_stacks(base: Path | None = None) -> list[RunningStack]:
    """The running stacks of this user, the newest first.

    Args:
        base: where temporary directories are made; None: the system's directory for them.
    """
    stacks = [_read(path) for path in (base or Path(tempfile.gettempdir())).glob(f"{PREFIX}*/{_FILE}")]
    return sorted((stack for stack in stacks if stack), key=lambda stack: stack.started, reverse=True)


def _read(path: Path) -> RunningStack | None:
    # Any user can write to the system's temporary directory. Trust only directories that are this user's alone.
    try:
        directory = path.parent.lstat()
        if not stat.S_ISDIR(directory.st_mode) or directory.st_uid != os.getuid() or directory.st_mode & 0o077:
            return None
        file = path.open()
    except (FileNotFoundError, PermissionError):
        return None  # the stack ended after the listing, or belongs to another user
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return RunningStack(**json.load(file))
        return None  # its process has died, and the guardian too
