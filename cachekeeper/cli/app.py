"""All commands. A new command is a function in its own module, and is added here.

The function imports what the command needs, so that `cachekeeper --help` does not load a database driver.
"""

import typer

from cachekeeper.cli.dead import dead
from cachekeeper.cli.dev import dev
from cachekeeper.cli.relay import relay
from cachekeeper.cli.serve import serve
from cachekeeper.cli.stream import stream
from cachekeeper.cli.warm import warm

app = typer.Typer(
    name="cachekeeper",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # local variables may hold tokens
)
app.add_typer(dead, name="dead")
app.command()(dev)
app.command()(relay)
app.command()(serve)
app.command()(stream)
app.command()(warm)


@app.callback()
def _cachekeeper() -> None:
    """Keeps a Redis cache true to MongoDB."""
