"""Who may publish through the HTTP door."""

import pytest
from starlette.requests import Request

from cachekeeper.errors import SettingsError
from cachekeeper.http_api import Door
from cachekeeper.http_api.problems import Problem
from cachekeeper.model.registry import load_registry
from cachekeeper.settings import DoorSettings, load

KEYS = ("first-key-0123456789", "second-key-987654321")
SETTINGS = DoorSettings(broker_url="redis://127.0.0.1:1", http_api_keys=KEYS)


def lets_in(door: Door, authorization: str | None) -> bool:
    headers = [] if authorization is None else [(b"authorization", authorization.encode("latin-1"))]
    request = Request({"type": "http", "headers": headers})
    try:
        door._check_key(request)
    except Problem as problem:
        refusal = problem
    else:
        return True
    assert refusal.status == 401
    assert refusal.headers == {"WWW-Authenticate": "Bearer"}
    return False


@pytest.fixture
def door() -> Door:
    return Door(SETTINGS, registry=load_registry(("producers",)))


@pytest.mark.parametrize("key", KEYS)
def test_each_key_opens(door: Door, key: str) -> None:
    assert lets_in(door, f"Bearer {key}")
    assert lets_in(door, f"bearer  {key} ")


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer \xff\xff",
        KEYS[0],
        f"Basic {KEYS[0]}",
        f"Bearer {KEYS[0]}x",
        f"Bearer {KEYS[0][:-1]}",
        f"Bearer {KEYS[0].upper()}",
        f"Bearer {','.join(KEYS)}",
    ],
)
def test_nothing_else_opens(door: Door, given: str | None) -> None:
    assert not lets_in(door, given)


def test_only_the_constant_time_comparison_decides(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bytes, bytes]] = []
    answer = True

    def compare(left: bytes, right: bytes) -> bool:
        seen.append((left, right))
        return answer

    monkeypatch.setattr("cachekeeper.http_api.app.hmac.compare_digest", compare)
    assert lets_in(door, "Bearer wrong")
    answer = False
    assert not lets_in(door, f"Bearer {KEYS[0]}")
    # All keys each time, whichever fits; and never texts whose length the time would tell.
    assert len(seen) == 2 * len(KEYS)
    assert {len(part) for pair in seen for part in pair} == {32}


def test_without_a_key_there_is_no_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHEKEEPER_BROKER_URL", "redis://127.0.0.1:1")
    for value in (None, "", " , ", "short", f"{KEYS[0]},a key with spaces in it", f"{KEYS[0]},ä-key-0123456789abc"):
        if value is None:
            monkeypatch.delenv("CACHEKEEPER_HTTP_API_KEYS", raising=False)
        else:
            monkeypatch.setenv("CACHEKEEPER_HTTP_API_KEYS", value)
        with pytest.raises(SettingsError, match="CACHEKEEPER_HTTP_API_KEYS: ") as caught:
            load(DoorSettings)
        assert KEYS[0] not in str(caught.value)
    monkeypatch.setenv("CACHEKEEPER_HTTP_API_KEYS", " , ".join(KEYS))
    settings = load(DoorSettings)
    assert settings.http_api_keys == KEYS
    assert not any(key in repr(settings) for key in KEYS)
