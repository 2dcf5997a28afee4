"""`make_redis_client` reads its URL as the setting does: what cannot be used is refused at once, and never shown."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from cachekeeper import make_redis_client
from cachekeeper.errors import InputError

SECRET = "correcthorse"


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache/1\u200b2",
        "redis://cache/one",
        "redis://cache/0/1",
        "redis://cache?db=-1",
        "redis://cache/1?db=2",
        "redis://cache:0/0",
        "redis://cache:port",
        "redis://cache /1",
        "redis+cluster://cache/1",
        "cache:6379",
        "",
        None,
        f"redis://me:{SECRET}#x@cache:6379/1",
        f"redis://me:{SECRET}/x@cache:6379/1",
        f"redis://me:{SECRET}@cache:port",
        f"rediss://cache?ssl_ca_certs=/{SECRET}",
    ],
)
def test_a_url_that_cannot_be_used(url: Any) -> None:
    with pytest.raises(InputError, match=r"^url: ") as caught:
        make_redis_client(url)
    assert caught.value.field == "url"
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "option",
    [
        "socket_timeout",
        "socket_connect_timeout",
        "timeout",
        "retry",
        "retry_on_timeout",
        "parser_class",
        "connection_class",
        "decode_responses",
        "protocol",
        "single_connection_client",
        "bogus",
    ],
)
@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster"])
def test_an_option_that_the_setting_does_not_have(scheme: str, option: str) -> None:
    with pytest.raises(InputError, match=f"^url: has the unknown option {option}; it may have "):
        make_redis_client(f"{scheme}://cache?{option}=1")


@pytest.mark.parametrize("blank", ["\n", "\r\n", " ", "\u200b", "\ufeff"])
def test_blanks_around_are_nothing(blank: str) -> None:
    """`redis://cache/3` and a line feed is not database 0."""
    with make_redis_client(f"{blank}redis://cache/3{blank}") as client:
        assert client.connection_pool.connection_kwargs["db"] == 3


@pytest.mark.parametrize("field", ["timeout_seconds", "wait_seconds"])
@pytest.mark.parametrize("seconds", [0, -1, 0.0, float("nan"), float("inf"), "1", None, True])
@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_a_time_limit_that_is_no_positive_number(scheme: str, field: str, seconds: Any) -> None:
    with pytest.raises(InputError, match=f"^{field}: must be a positive number of seconds$"):
        make_redis_client(f"{scheme}://127.0.0.1:1", **{field: seconds})
