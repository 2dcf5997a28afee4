"""Users whose names change, and who log out: the events, and what must be cached when they are applied."""

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
# To make an event takes longer than to apply it; so a text is made from one that `event_text` made.
_SAMPLE = event_text(UserUpdated(id="@id@", user_id="@user@", name="@name@", version=MAX_VERSION))
_LOGOUT = event_text(UserLoggedOut(id="@id@", session_id="session-@n@", token_id="token-@n@"))  # noqa: S106  # no password


def document(user: int, version: int) -> dict[str, Any]:
    """A user in MongoDB."""
    return {"_id": user, "name": _NAME.format(version), "version": version}


def key(user: int) -> str:
    """Where his name is cached."""
    return USER_NAME.template.key(str(user))


def cached(version: int) -> bytes:
    """What is cached of it."""
    return _NAME.format(version).encode()


def version_of(value: bytes | None) -> int:
    """The version of what is cached, 0 for nothing."""
    if value is None:
        return 0
    match = _VERSION.fullmatch(value)
    assert match, f"{value!r} is cached, which nobody has published"
    return int(match[1])


def text(user: int, version: int) -> str:
    """The event about a change, as `publish` puts it on the wire."""
    found = _SAMPLE.replace("@id@", str(uuid.uuid4())).replace("@user@", str(user))
    return found.replace("@name@", _NAME.format(version)).replace(str(MAX_VERSION), str(version))


def logout_text(name: str) -> str:
    """The event that a session has ended and its token is void."""
    return _LOGOUT.replace("@id@", str(uuid.uuid4())).replace("@n@", name)


def blocked_key(name: str) -> str:
    """Where that token is blocked."""
    return BLOCKED.template.key(f"token-{name}")
