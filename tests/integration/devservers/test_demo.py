"""`make demo`: right from start to end, and wrong where one key is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

# The same story, but somebody writes a name behind everybody's back before the check.
SPOILT = """
import sys
import demo.__main__ as program
from cachekeeper import Server

def spoil(stage):
    stage.keeper.store(Server.CACHE).client.set("user:1:name", "not what MongoDB says")

story = program.STORY
program.STORY = (*story[:-1], spoil, story[-1])
sys.exit(program.main())
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.usefixtures("redis_found", "mongo_found")
def test_the_demonstration_is_right_from_start_to_end() -> None:
    done = run("-m", "demo")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "All of it was right" in done.stdout
    for event in ("user.updated", "user.deleted", "product.changed", "user.logged_out"):
        assert f"published {event}" in done.stdout


@pytest.mark.usefixtures("redis_found", "mongo_found")
def test_one_stale_key_and_it_fails() -> None:
    done = run("-c", SPOILT)
    assert done.returncode == 1
    assert "stale keys: user:1:name" in done.stdout
