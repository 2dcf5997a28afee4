"""`python -m benchmarks [NAME ...]`: all but the long ones, or those named. Exit status 1 where a target was missed."""

from __future__ import annotations

import argparse
import sys

from benchmarks import delivery, herd, hit, rollbacks, search, wrong_keys
from benchmarks.losses import __main__ as losses
from benchmarks.races import table as races

ALL = {
    "delivery": delivery.main,
    "herd": herd.main,
    "hit": hit.main,
    "losses": losses.main,
    "races": races.main,
    "rollbacks": rollbacks.main,
    "search": search.main,
    "wrong_keys": wrong_keys.main,
}
LONG = {"losses", "wrong_keys"}


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which: {', '.join(ALL)}; default: all but {', '.join(LONG)}"
    )
    names = parser.parse_args().names or [name for name in ALL if name not in LONG]
    if unknown := sorted(set(names) - set(ALL)):
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {', '.join(ALL)}")
    held = [ALL[name]() for name in names]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
