"""Run the demonstration: `python -m demo`. Exit status 0 means that everything it showed was right."""

from __future__ import annotations

import os
import sys
import time

from rich.console import Console

from cachekeeper import CachekeeperError, Keeper, load_settings
from cachekeeper.devservers import DevStack
from demo.show import Failed, Stage
from demo.story import STORY


def main() -> int:
    """Start the stack, run each step, and print whether all checks were right."""
    console = Console(highlight=False)
    began = time.perf_counter()
    console.rule("[bold]cachekeeper[/]: events in, Redis kept true to MongoDB", style="bold")
    try:
        with DevStack(with_parent=True, tell=lambda line: console.print(line, style="dim", markup=False)) as stack:
            os.environ.update(stack.environment)
            started = time.perf_counter() - began
            keeper = Keeper(load_settings())
            try:
                stage = Stage(console, keeper)
                console.print(f"Two Redis servers, MongoDB and a worker are up after {started:.1f} s.", style="dim")
                for tell in STORY:
                    tell(stage)
                stack.check()
            finally:
                keeper.close()
    except (Failed, CachekeeperError) as error:
        console.print(f"\n[bold red]Not right:[/] {error}")
        return 1
    console.print()
    seconds = time.perf_counter() - began
    console.print(f"[bold green]All of it was right:[/] {stage.checks} checks, {seconds:.0f} s from start to end.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
