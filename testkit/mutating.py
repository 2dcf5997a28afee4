"""Known-bad variants of modules and scripts, each wrong in one respect."""

import copy
import hashlib
import inspect
from types import ModuleType

import pytest

from cachekeeper.protocol import scripts


def mutated(module: ModuleType, old: str, new: str) -> ModuleType:
    """Return a copy of the module with one piece of its source replaced. It is unused until a test installs it."""
    source = inspect.getsource(module)
    assert source.count(old) == 1, "the module has changed: adapt the mutant"
    mutant = ModuleType(module.__name__)
    exec(compile(source.replace(old, new), f"a mutant of {module.__name__}", "exec"), mutant.__dict__)  # noqa: S102
    return mutant


def mutate(monkeypatch: pytest.MonkeyPatch, script: str, good: str, bad: str) -> None:
    """Run a known-bad variant of one of the protocol's scripts for the rest of the test."""
    original: scripts.Script = getattr(scripts, script)
    assert good in original.source
    mutant = copy.copy(original)
    mutant.source = original.source.replace(good, bad)
    mutant.sha = hashlib.sha1(mutant.source.encode(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(scripts, script, mutant)
