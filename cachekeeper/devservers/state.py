"""Which stacks run: a file in the temporary directory of each, so that another shell can ask for its variables.

A file is true while the process that wrote it holds a lock on it. The kernel drops the lock with the process, whatever
ended it; a process id could by now be somebody else's.
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
    """A stack that runs.

    Attributes:
        pid: the process that holds it.
        started: when it became ready, seconds since 1970.
        environment: the variables that reach its servers.
        directory: where it was started, resolved; empty if an older version started it.
    """

    pid: int
    started: float
    environment: Mapping[str, str]
    directory: str = ""


@contextmanager
def published(environment: Mapping[str, str], directory: Path) -> Iterator[None]:
    """Let others find the stack of this process while the context lasts.

    Args:
        environment: the variables that reach its servers.
        directory: the stack's temporary one.
    """
    path = directory / _FILE
    draft = path.with_suffix(".draft")
    with draft.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        json.dump(asdict(RunningStack(os.getpid(), time.time(), dict(environment), str(Path.cwd()))), file)
        file.flush()
        draft.rename(path)  # locked and complete before anybody sees it
        try:
            yield
        finally:
            path.unlink()


def running_stacks(base: Path | None = None) -> list[RunningStack]:
    """The stacks of this user that run, the newest first.

    Args:
        base: where temporary directories are made; None: the system's place.
    """
    stacks = [_read(path) for path in (base or Path(tempfile.gettempdir())).glob(f"{PREFIX}*/{_FILE}")]
    return sorted((stack for stack in stacks if stack), key=lambda stack: stack.started, reverse=True)


def _read(path: Path) -> RunningStack | None:
    # Everybody may write to the place for temporary directories: only what is this user's alone is believed.
    try:
        directory = path.parent.lstat()
        if not stat.S_ISDIR(directory.st_mode) or directory.st_uid != os.getuid() or directory.st_mode & 0o077:
            return None
        file = path.open()
    except (FileNotFoundError, PermissionError):
        return None  # it ended since the directory was listed, or is somebody else's
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return RunningStack(**json.load(file))
        return None  # its process is dead, and the guardian too
