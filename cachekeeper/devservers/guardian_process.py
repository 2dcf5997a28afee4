"""The guardian process: it ends a moment after the process that it guards, and cleans up after it.

Over a pipe on its standard input it learns which process groups were started and which paths were made. When the pipe
closes or the guarded process ends, it kills every group that is left, removes every path, and exits. This also works
when the guarded process gets a SIGKILL: the kernel closes the pipe.

It is run by path and without site-packages, so that it starts within milliseconds. It imports nothing of cachekeeper.

Lines on standard input, each a JSON array: `["group", pid]`, `["forget", pid]`, `["path", path]`, `["end"]`.
"""

import json
import os
import select
import signal
import sys
import time
from pathlib import Path

LOOK_SECONDS = 0.2
"""Time between two checks that the guarded process is still the parent.

The pipe alone is not enough: a process that the guarded one forked without exec (`multiprocessing`) holds a copy of
the writing end, and may live longer.
"""
CLEAN_SECONDS = 15.0


class Charge:
    """The process groups and paths to clean up, as the guarded process has sent them."""

    def __init__(self) -> None:
        self.groups: set[int] = set()
        self.paths: list[Path] = []
        self.ended = False

    def obey(self, line: bytes) -> None:
        """Carry out one line from the pipe."""
        verb, *arguments = json.loads(line)
        if verb == "group":
            self.groups.add(int(arguments[0]))
        elif verb == "forget":
            self.groups.discard(int(arguments[0]))
        elif verb == "path":
            self.paths.append(Path(arguments[0]))
        elif verb == "end":
            self.ended = True
        else:
            raise ValueError(verb)

    def clean(self) -> None:
        """Kill the groups, wait until they are gone, then remove the paths."""
        deadline = time.monotonic() + CLEAN_SECONDS
        for group in self.groups:
            kill(group)
        while any(alive(group) for group in self.groups) and time.monotonic() < deadline:
            time.sleep(0.005)
        for path in self.paths:
            while not remove(path) and time.monotonic() < deadline:
                time.sleep(0.05)


def kill(group: int) -> None:
    """Kill a process group; a stopped process dies of SIGKILL too."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # it has ended; macOS answers EPERM if only zombies are left


def alive(group: int) -> bool:
    """Whether a process of the group still runs. A zombie does not count: its parent may never reap it."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    if not Path("/proc/self/stat").exists():
        return True
    return any(_runs_in(entry, group) for entry in Path("/proc").glob("[0-9]*/stat"))


def _runs_in(stat: Path, group: int) -> bool:
    try:
        fields = stat.read_bytes().rpartition(b")")[2].split()  # state, parent, group; the name may hold spaces
    except (FileNotFoundError, ProcessLookupError):
        return False
    return int(fields[2]) == group and fields[0] not in {b"Z", b"X"}


def remove(path: Path) -> bool:
    """Remove a file or a directory tree. Return whether it is gone."""
    import shutil  # noqa: PLC0415  (it takes 20 ms, and would delay the start of every guardian)

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    return not os.path.lexists(path)


def watch(parent: int) -> None:
    """Carry out orders until no more can come, then clean up."""
    charge = Charge()
    rest = b""
    orphaned = False
    while not charge.ended:
        ready, _, _ = select.select([0], [], [], 0 if orphaned else LOOK_SECONDS)
        if ready:
            chunk = os.read(0, 65536)
            if not chunk:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                charge.obey(line)
        elif orphaned:
            break
        else:
            # Do not end yet: the parent may have written an order after `select` and died before this line. It writes
            # nothing more now, so one more `select` without waiting sees all orders.
            orphaned = os.getppid() != parent
    charge.clean()


def main() -> None:
    """Guard the parent process, whose id is the only argument."""
    # This process has its own session, so the terminal's signals do not reach it; these may come from `kill` and
    # `pkill`. It ends only when the guarded process ends.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    os.chdir("/")
    watch(int(sys.argv[1]))


if __name__ == "__main__":
    main()
