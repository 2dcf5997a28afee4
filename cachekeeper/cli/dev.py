"""`cachekeeper dev`: run the embedded stack in the foreground."""

import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cachekeeper.devservers import DevStack

WATCH_SECONDS = 0.2


def dev(  # noqa: PLR0913  # one for each option
    *,
    env: Annotated[
        bool, typer.Option("--env", help="Print the environment variables of the running stack, and exit.")
    ] = False,
    pid: Annotated[
        int | None, typer.Option(help="With --env: the process id of the stack, if several are running.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Keep the data in this directory. Without it, no data is kept.")
    ] = None,
    worker: Annotated[bool, typer.Option(help="Run `celery -A cachekeeper worker` too.")] = True,
    relay: Annotated[
        bool, typer.Option(help="Run `cachekeeper relay` too: it publishes the events in the outbox.")
    ] = True,
    stream: Annotated[
        bool, typer.Option("--stream", help="Run `cachekeeper stream` too: it turns changes in MongoDB into events.")
    ] = False,
    http: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, metavar="PORT", help="Run `cachekeeper serve` too, on this port; 0 for a free port."
        ),
    ] = None,
    with_parent: Annotated[bool, typer.Option("--with-parent", help="End when the parent process ends.")] = False,
    redis_server: Annotated[Path | None, typer.Option(help="The redis-server or valkey-server to run.")] = None,
    mongod: Annotated[Path | None, typer.Option(help="The mongod to run.")] = None,
) -> None:
    """Run Redis and MongoDB on free ports, a worker, and the relay of the outbox, until ctrl-C.

    Standard output has only the variables that reach the servers. In another shell: eval "$(cachekeeper dev --env)"
    """
    if env:
        _print_running(pid)
        return
    from cachekeeper.devservers import DevStack  # noqa: PLC0415  (see cachekeeper.cli.app)
    from cachekeeper.devservers.program_version import identify  # noqa: PLC0415
    from cachekeeper.devservers.state import published  # noqa: PLC0415

    stop = _Stop()
    # A second signal while the stack is closing interrupts the closing. The guardian process then does the rest.
    with suppress(KeyboardInterrupt), stop.on_signals():
        stack = DevStack(
            worker=worker,
            relay=relay,
            stream=stream,
            http=http,
            with_parent=with_parent,
            data=None if data is None else data.absolute(),
            redis=None if redis_server is None else identify(redis_server.absolute(), "--redis-server"),
            mongod=None if mongod is None else identify(mongod.absolute(), "--mongod"),
            tell=_say,
        )
        with stack, published(stack.environment, stack.directory):
            _welcome(stack)
            while not stop.asked:
                stack.check()
                time.sleep(WATCH_SECONDS)
    _say("ended; nothing is left running")


class _Stop:
    """A request to end: by ctrl-C, SIGTERM or a closed terminal."""

    def __init__(self) -> None:
        self.asked = False

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        # The exception interrupts a start that is waiting. Python drops an exception that is raised inside a finalizer,
        # so `asked` holds the request too.
        self.asked = True
        raise KeyboardInterrupt

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Raise KeyboardInterrupt on each of these signals, also if a shell has made us ignore SIGINT (`... &`)."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # not with `nohup`, which ignores it on purpose
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._ask) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _print_environment(environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
    sys.stdout.flush()


def _welcome(stack: "DevStack") -> None:
    _print_environment(stack.environment)
    _say(f"logs: {stack.directory}")
    _say('In another shell: eval "$(cachekeeper dev --env)"')
    _say("ctrl-C ends it all.")


def _print_running(pid: int | None) -> None:
    from cachekeeper.devservers.errors import StackError  # noqa: PLC0415  (see cachekeeper.cli.app)
    from cachekeeper.devservers.state import running_stacks  # noqa: PLC0415

    stacks = running_stacks()
    chosen = [stack for stack in stacks if pid in {None, stack.pid}]
    if not chosen:
        which = "no stack" if pid is None else f"no stack in process {pid}"
        raise StackError(f"{which} is running (searched in {tempfile.gettempdir()}); `cachekeeper dev` starts one")
    here = str(Path.cwd())
    chosen = [stack for stack in chosen if stack.directory == here] or chosen
    if len(chosen) > 1:
        # With another project's variables, its data would be taken for this project's, and might be dropped.
        which = "\n".join(f"  --pid {stack.pid}  started in {stack.directory}" for stack in chosen)
        raise StackError(f"{len(chosen)} stacks are running; choose one of them:\n{which}")
    if chosen[0].directory != here:
        _say(f"this stack was started in {chosen[0].directory}")
    _print_environment(chosen[0].environment)
