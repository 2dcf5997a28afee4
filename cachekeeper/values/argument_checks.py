"""Checks at the door what a caller gives: clients, databases and sessions that are his own.

An asynchronous client, or a mock, answers every call with something that is true. Used as if it were a synchronous one,
it says that a blocked token is free, that a user does not exist, and that an event was stored.
"""

from __future__ import annotations

_ASYNCHRONOUS = ("redis.asyncio", "pymongo.asynchronous", "motor", "fakeredis.aioredis", "fakeredis._async")
_MOCKS = "unittest.mock"


def check_given(value: object, field: str, *wanted: type, cure: str, refused: tuple[type, ...] = ()) -> None:
    """Refuse what is none of `wanted`.

    Args:
        value: what was given. It is not shown: it may be a URL with a password.
        field: the parameter.
        wanted: types that are taken, and what is derived from them.
        cure: what to pass instead.
        refused: derived types that are not taken.

    Raises:
        TypeError: it is another type, or a mock.
    """
    kinds = type(value).__mro__
    mock = any(kind.__module__ == _MOCKS for kind in kinds)
    # By `isinstance`, which tracing libraries answer for the objects they wrap; mocks with a `spec` do the same.
    if isinstance(value, wanted) and not isinstance(value, refused) and not mock:
        return
    names = " or ".join(_named(kind) for kind in wanted)
    given = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
    how = " (asynchronous)" if any(kind.__module__.startswith(_ASYNCHRONOUS) for kind in kinds) else ""
    raise TypeError(f"{field}: must be a {names}, not {given}{how}: pass {cure}")


def _named(kind: type) -> str:
    module = kind.__module__
    # As users import it, not as the library files it.
    for inside, outside in (
        ("redis.", "redis"),
        ("pymongo.synchronous.client_session", "pymongo.client_session"),
        ("pymongo.synchronous.database", "pymongo.database"),
        ("cachekeeper.reading.keeper", "cachekeeper"),
        ("cachekeeper.publishing.publisher", "producers"),
    ):
        if module.startswith(inside):
            module = outside
    return f"{module}.{kind.__name__}"
