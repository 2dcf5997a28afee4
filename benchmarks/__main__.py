"""`python -m benchmarks [NAME ...]`: run all benchmarks, or those named. Exit status 1 if a target was missed."""

from __future__ import annotations

import argparse
import sys

from benchmarks import delivery, herd, hit, search

ALL = {
    "delivery": delivery.main,
    "herd": herd.main,
    "hit": hit.main,
    "search": search.main,
}


def main() -> int:
    """Run the benchmarks that were asked for, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(ALL)}; default: all")
    names = parser.parse_args().names or list(ALL)
    if unknown := sorted(set(names) - set(ALL)):
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {', '.join(ALL)}")
    held = [ALL[name]() for name in names]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
