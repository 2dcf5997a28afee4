"""Modules that are wrong in one respect."""

import inspect
from types import ModuleType


def mutated(module: ModuleType, old: str, new: str) -> ModuleType:
    """The module once more, with one piece of its source exchanged. Nobody uses it until a test puts it in place."""
    source = inspect.getsource(module)
    assert source.count(old) == 1, "the module has changed; the mutant must, too"
    mutant = ModuleType(module.__name__)
    exec(compile(source.replace(old, new), f"a mutant of {module.__name__}", "exec"), mutant.__dict__)  # noqa: S102
    return mutant
