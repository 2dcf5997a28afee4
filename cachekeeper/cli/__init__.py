"""The `cachekeeper` command.

May import everything. Each command imports what it needs only when it runs, so that `--help` is fast.
"""

import sys
from pathlib import Path

from cachekeeper.errors import CachekeeperError


def main() -> None:
    """Run the command line. An error of this library becomes one message on standard error, and exit status 1."""
    try:
        from cachekeeper.cli.app import app  # noqa: PLC0415  (the extra may be missing)
    except ModuleNotFoundError as error:
        if error.name not in {"rich", "typer"}:
            raise
        sys.exit(f'The command line needs {error.name}: pip install "cachekeeper[cli]"')
    # As Celery does: the packages that CACHEKEEPER_MODULES names may be in the current directory.
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.insert(0, str(Path.cwd()))
    try:
        app()
    except CachekeeperError as error:
        sys.exit(f"cachekeeper: {error}")
