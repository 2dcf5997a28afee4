"""`python -m verification.protocol`: search the protocol and every wrong variant; replay each step that was reached.

Exit status 0 if the protocol holds, the search finds an error in every wrong variant, and the server agrees with the
model.
"""

from __future__ import annotations

import argparse
import os
import sys

from verification.protocol.families import FAMILIES, MORE
from verification.protocol.mutants import MUTANTS
from verification.protocol.running import run, search_mutant
from verification.protocol.telling import table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m verification.protocol", description=__doc__)
    parser.add_argument("--full", action="store_true", help="also search four and five writes (takes minutes)")
    parser.add_argument("--mutant", metavar="NAME", help="show step by step how one wrong variant fails")
    parser.add_argument("--list", action="store_true", help="list the wrong variants")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    options = parser.parse_args()
    if options.list:
        print("\n".join(table([("variant", "what is wrong"), *((v.name, v.says) for v in MUTANTS)])))
        return 0
    if options.mutant is not None:
        return show_mutant(options.mutant)
    families = (*FAMILIES, *MORE) if options.full else FAMILIES
    return run(families, options.jobs)


def show_mutant(name: str) -> int:
    """Print the traces of one variant. Return 0 if the search finds an error in it."""
    wanted = next((variant for variant in MUTANTS if variant.name == name), None)
    if wanted is None:
        print(f"there is no variant {name!r}; --list shows all names", file=sys.stderr)
        return 2
    _, first, stuck = search_mutant(name)
    print(f"{wanted.name}: {wanted.says}\n")
    if first is None:
        print("no bad state was found")
        return 1
    print(first)
    if stuck is not None and stuck != first:
        print(f"\nthe nearest state in which the wrong value stays:\n\n{stuck}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
