"""Type checks for the clients, databases and sessions that a caller passes in.

An asynchronous client or a mock answers every call with an object that counts as true. Used as a synchronous client,
it would say that a blocked token is free, that a user does not exist, or that an event was stored.
"""

from __future__ import annotations

_ASYNCHRONOUS = ("redis.asyncio", "pymongo.asynchronous", "motor", "fakeredis.aioredis", "fakeredis._async")
_MOCKS = "unittest.mock"


def check_given(value: object, field: str, *wanted: type, cure: str, refused: tuple[type, ...] = ()) -> None:
    """Check that `value` is an instance of one of the `wanted` types.

    Args:
        value: the argument. The error does not show it: it may be a URL with a password.
        field: the name of the parameter.
        wanted: the accepted types; their subclasses are accepted too.
        cure: what to pass instead.
        refused: subclasses that are not accepted.

    Raises:
        TypeError: `value` has another type, or is a mock.
    """
    kinds = type(value).__mro__
    mock = any(kind.__module__ == _MOCKS for kind in kinds)
    # `isinstance` also accepts the wrappers of tracing libraries, and mocks with a `spec`: `mock` finds those.
    if isinstance(value, wanted) and not isinstance(value, refused) and not mock:
        return
    names = " or ".join(_named(kind) for kind in wanted)
    given = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
    how = " (asynchronous)" if any(kind.__module__.startswith(_ASYNCHRONOUS) for kind in kinds) else ""
    raise TypeError(f"{field}: must be a {names}, not {given}{how}: pass {cure}")


def _named(kind: type) -> str:
    module = kind.__module__
    # The module that users import it from, not the one that defines it.
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
