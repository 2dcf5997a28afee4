"""The keeper of this process's environment, which functions use where none is passed."""

from __future__ import annotations

from cachekeeper.reading.keeper import Keeper
from cachekeeper.values.argument_checks import check_given

_default = Keeper()


def given_or_default(keeper: Keeper | None) -> Keeper:
    """`keeper`, or where none is passed, that of this process's environment.

    Raises:
        TypeError: it is something else. Of a mock every token would be blocked, and every user there.
    """
    if keeper is None:
        return _default
    if type(keeper) is not Keeper:
        check_given(keeper, "keeper", Keeper, cure="a Keeper, or nothing for that of the environment")
    return keeper


def default_keeper() -> Keeper:
    """The keeper of this process's environment, which the shipped functions use where none is passed."""
    return _default


def close() -> None:
    """Give back the connections of the default keeper."""
    _default.close()
