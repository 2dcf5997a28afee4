"""`cachekeeper dev`: the embedded stack in the foreground."""

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
    env: Annotated[bool, typer.Option("--env", help="Print the variables of the running stack, and exit.")] = False,
    pid: Annotated[int | None, typer.Option(help="With --env: which stack, where several run.")] = None,
    data: Annotated[Path | None, typer.Option(help="Keep the data here; otherwise nothing is kept.")] = None,
    worker: Annotated[bool, typer.Option(help="Run `celery -A cachekeeper worker` too.")] = True,
    relay: Annotated[
        bool, typer.Option(help="Run `cachekeeper relay` too: it publishes what is in the outbox.")
    ] = True,
    stream: Annotated[
        bool, typer.Option("--stream", help="Run `cachekeeper stream` too: what changes in MongoDB makes events.")
    ] = False,
    http: Annotated[
        int | None,
        typer.Option(min=0, max=65535, metavar="PORT", help="Run `cachekeeper serve` too; 0 for a free port."),
    ] = None,
    with_parent: Annotated[bool, typer.Option("--with-parent", help="End when the parent process ends.")] = False,
    redis_server: Annotated[Path | None, typer.Option(help="This redis-server or valkey-server.")] = None,
    mongod: Annotated[Path | None, typer.Option(help="This mongod.")] = None,
) -> None:
    """Run Redis and MongoDB on free ports, a worker and the outbox's relay, until ctrl-C.

    Standard output has only the lines that another shell needs to reach them: eval "$(cachekeeper dev --env)" there.
    """
    if env:
        _print_running(pid)
        return
    from cachekeeper.devservers import DevStack  # noqa: PLC0415  (see cachekeeper.cli.app)
    from cachekeeper.devservers.program_version import identify  # noqa: PLC0415
    from cachekeeper.devservers.state import published  # noqa: PLC0415

    stop = _Stop()
    # A second signal while the stack is closing cuts the closing short; the guardian does what is left of it.
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
    """The wish to end, by ctrl-C, SIGTERM or a closed terminal."""

    def __init__(self) -> None:
        self.asked = False

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        # The exception ends whatever start is waiting. Python drops one that is raised inside a finalizer, so the
        # wish is also written down.
        self.asked = True
        raise KeyboardInterrupt

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Raise KeyboardInterrupt on each of these signals, even where a shell has had SIGINT ignored (`... &`)."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` means it
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
        raise StackError(f"{which} runs (with its files in {tempfile.gettempdir()}); `cachekeeper dev` starts one")
    here = str(Path.cwd())
    chosen = [stack for stack in chosen if stack.directory == here] or chosen
    if len(chosen) > 1:
        # Another project's variables would have its data taken for this one's, and dropped.
        which = "\n".join(f"  --pid {stack.pid}  started in {stack.directory}" for stack in chosen)
        raise StackError(f"{len(chosen)} stacks run; say which one you mean:\n{which}")
    if chosen[0].directory != here:
        _say(f"this stack was started in {chosen[0].directory}")
    _print_environment(chosen[0].environment)
