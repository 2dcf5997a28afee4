"""Users whose names change, and who log out: the events, and the cached values after they are applied."""

from __future__ import annotations

import re
import uuid
from typing import Any

from cachekeeper.publishing.publisher import event_text
from cachekeeper.values.versions import MAX_VERSION
from lookups.tokens import BLOCKED
from lookups.users import USER_NAME
from producers import UserLoggedOut, UserUpdated

_NAME = "Ada Lovelace, edition {}"
_VERSION = re.compile(rb"Ada Lovelace, edition (\d+)")
# Making an event takes longer than applying it, so texts are copied from a sample that `event_text` made.
_SAMPLE = event_text(UserUpdated(id="@id@", user_id="@user@", name="@name@", version=MAX_VERSION))
_LOGOUT = event_text(UserLoggedOut(id="@id@", session_id="session-@n@", token_id="token-@n@"))  # noqa: S106  # not a password


def document(user: int, version: int) -> dict[str, Any]:
    """Return a user's document in MongoDB."""
    return {"_id": user, "name": _NAME.format(version), "version": version}


def key(user: int) -> str:
    """Return the key at which a user's name is cached."""
    return USER_NAME.template.key(str(user))


def cached(version: int) -> bytes:
    """Return the cached value of this version."""
    return _NAME.format(version).encode()


def version_of(value: bytes | None) -> int:
    """Return the version of a cached value; 0 if nothing is cached."""
    if value is None:
        return 0
    match = _VERSION.fullmatch(value)
    assert match, f"{value!r} is cached, but was never published"
    return int(match[1])


def text(user: int, version: int) -> str:
    """Return the event for a change, as `publish` puts it on the wire."""
    found = _SAMPLE.replace("@id@", str(uuid.uuid4())).replace("@user@", str(user))
    return found.replace("@name@", _NAME.format(version)).replace(str(MAX_VERSION), str(version))


def logout_text(name: str) -> str:
    """Return the event that a session has ended and its token is void."""
    return _LOGOUT.replace("@id@", str(uuid.uuid4())).replace("@n@", name)


def blocked_key(name: str) -> str:
    """Return the key at which that token is blocked."""
    return BLOCKED.template.key(f"token-{name}")
