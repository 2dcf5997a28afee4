"""The same search finds a bad state for every wrong variant, so it would find an error in the protocol."""

import subprocess
import sys
from typing import Any

import pytest

from verification.protocol import judge
from verification.protocol.explorer import Found, search
from verification.protocol.families import Variant, family_of, space
from verification.protocol.mutants import MUTANTS
from verification.protocol.telling import trace

# The variants that the design and the issue name. Each must be there.
NAMED = {
    "payload-unless-newer",
    "payload-over-marker",
    "unversioned-fill-keeps-version",
    "deletion-with-last-version",
    "unraised-version",
    "re-creation-restarts",
    "blind-fill",
    "counted-leases",
    "marker-only",
    "drop-in-one-pass",
    "search-lets-fills-land",
}


@pytest.mark.parametrize("variant", MUTANTS, ids=lambda variant: variant.name)
def test_a_wrong_variant_is_found_out(variant: Variant) -> None:
    family = family_of(variant.family)
    for happens in family.histories(variant.publishing):
        searched = space(family, variant, happens, fine=False)
        found: Found[Any] = search(searched)
        if found.problem is not None:
            assert found.problem.startswith((judge.STUCK, judge.LATE))
            assert trace(searched, found).count("\n") == found.depth + 4  # every step of the path has a line
            return
    pytest.fail(f"no bad state: {variant.says}")


def test_all_that_the_design_names_are_there() -> None:
    names = [variant.name for variant in MUTANTS]
    assert len(names) == len(set(names))
    assert set(names) >= NAMED


def test_a_variant_is_shown_step_by_step() -> None:
    command = [sys.executable, "-m", "verification.protocol", "--mutant", "payload-over-marker"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert shown.returncode == 0, shown.stderr
    assert "event 1 (version 2): marked" in shown.stdout
    assert "event 2 (version 3): overwritten" in shown.stdout
    assert "=> stuck stale" in shown.stdout


def test_a_variant_that_does_not_exist_is_an_error() -> None:
    command = [sys.executable, "-m", "verification.protocol", "--mutant", "nothing"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert shown.returncode == 2
    assert "--list" in shown.stderr
