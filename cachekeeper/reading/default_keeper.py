"""The default keeper of this process, made from the environment: functions use it if no keeper is passed."""

from __future__ import annotations

from cachekeeper.reading.keeper import Keeper
from cachekeeper.values.argument_checks import check_given

_default = Keeper()


def given_or_default(keeper: Keeper | None) -> Keeper:
    """Return `keeper`, or the default keeper if none is passed.

    Raises:
        TypeError: it is not a keeper. With a mock, every token would look blocked, and every user would seem to exist.
    """
    if keeper is None:
        return _default
    if type(keeper) is not Keeper:
        check_given(keeper, "keeper", Keeper, cure="a Keeper, or nothing to use the default keeper")
    return keeper


def default_keeper() -> Keeper:
    """Return the default keeper of this process, made from the environment. Functions use it if none is passed."""
    return _default


def close() -> None:
    """Close the connections of the default keeper."""
    _default.close()
