"""`python -m verification NAME ...`: cause faults and report what breaks. Exit status 1 if a target was missed.

The protocol's model, the chaos runs and the soak have their own commands, with options: `python -m
verification.protocol`, `.chaos`, `.soak`.
"""

from __future__ import annotations

import argparse
import sys

from verification.losses import __main__ as losses
from verification.races import table as races
from verification.rollbacks import table as rollbacks
from verification.wrong_keys import run as wrong_keys

ALL = {
    "losses": losses.main,
    "races": races.main,
    "rollbacks": rollbacks.main,
    "wrong_keys": wrong_keys.main,
}


def main() -> int:
    """Run the named verifications. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m verification", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", choices=[*ALL], help=f"one or more of {', '.join(ALL)}")
    held = [ALL[name]() for name in parser.parse_args().names]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
