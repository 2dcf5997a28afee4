"""The `cachekeeper` command.

May import everything. What a verb needs is imported when it runs: `--help` waits for nothing.
"""

import sys
from pathlib import Path

from cachekeeper.errors import CachekeeperError


def main() -> None:
    """Run the command line. Anything this library raises on purpose is one message and exit status 1."""
    try:
        from cachekeeper.cli.app import app  # noqa: PLC0415  (the extra may be missing)
    except ModuleNotFoundError as error:
        if error.name not in {"rich", "typer"}:
            raise
        sys.exit(f'The command line needs {error.name}: pip install "cachekeeper[cli]"')
    # As Celery does: the packages that CACHEKEEPER_MODULES names may lie in the current directory.
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.insert(0, str(Path.cwd()))
    try:
        app()
    except CachekeeperError as error:
        sys.exit(f"cachekeeper: {error}")
