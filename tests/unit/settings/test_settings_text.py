"""Settings as text: blanks around are nothing, what cannot be seen inside is refused by name, and never shown."""

from __future__ import annotations

import os
import traceback
import unicodedata
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_settings import BaseSettings

from cachekeeper.connections.mongodb import connect_mongodb
from cachekeeper.connections.redis_clients import connect_redis
from cachekeeper.errors import SettingsError
from cachekeeper.settings import PREFIX, load
from tests.unit.settings.environment import kinds

if TYPE_CHECKING:
    from pathlib import Path

VALUES = {
    "redis_url": "redis://:correcthorse@cache:6379/0",
    "security_redis_url": "redis+cluster://:correcthorse@safe:6379",
    "mongodb_url": "mongodb://me:correcthorse@db:27017/shop?replicaSet=rs0",
    "broker_url": "amqp://me:correcthorse@broker:5672//",
    "modules": "producers,lookups",
    "id_types": "user_name=objectid,session=str",
    "http_api_keys": "correcthorsebatterystaple,correcthorsebatterystaple2",
    "read_concern": "linearizable",
}
"""A value for each setting that is text; the others are numbers."""
NUMBERS = {"load_timeout_seconds": "1", "redis_timeout_seconds": "0.1"}  # less than the others must be
KINDS = sorted((kind for kind in kinds() if kind.model_fields), key=lambda kind: kind.__name__)
of_every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
of_every_url = pytest.mark.parametrize("field", [field for field in VALUES if field.endswith("_url")])


def kind_with(field: str) -> type[BaseSettings]:
    return next(kind for kind in KINDS if field in kind.model_fields)


# Everything that Unicode calls a blank, what ends a line, and what has no width: a byte order mark is what an editor
# leaves at the beginning of a secret's file.
BLANKS = sorted(
    {chr(code) for code in range(0x3001) if chr(code).isspace()} | set("\u200b\u2060\ufeff\u00ad\u200e"),
)
LISTS = {"modules", "id_types", "http_api_keys"}


def value_of(field: str) -> str:
    return VALUES.get(field) or NUMBERS.get(field, "12")


def read(monkeypatch: pytest.MonkeyPatch, kind: type[BaseSettings], **changed: str) -> BaseSettings:
    """The settings from the environment, all of them set."""
    for name in os.environ:
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)
    for field in kind.model_fields:
        monkeypatch.setenv(PREFIX + field.upper(), changed.get(field, value_of(field)))
    return load(kind)


@of_every_kind
def test_blanks_of_any_kind_around_a_setting_are_nothing(
    monkeypatch: pytest.MonkeyPatch, kind: type[BaseSettings]
) -> None:
    plain = read(monkeypatch, kind)
    every = "".join(BLANKS)
    for before, behind in [*(("", blank) for blank in BLANKS), *((blank, "") for blank in BLANKS), (every, every)]:
        values = {field: before + value_of(field) + behind for field in kind.model_fields}
        assert read(monkeypatch, kind, **values) == plain, ascii((before, behind))


@pytest.mark.parametrize("field", sorted(LISTS))
def test_blanks_around_what_a_list_holds_are_nothing(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    """A list may stand on several lines."""
    kind = kind_with(field)
    plain = read(monkeypatch, kind)
    for around in (*BLANKS, "\r\n"):
        spread = value_of(field).replace(",", f"{around},{around}").replace("=", f"{around}={around}")
        assert read(monkeypatch, kind, **{field: f"{spread},{around}"}) == plain, ascii(around)


# Letters, marks and signs that show nothing: fillers of Hangul, joiners, variation selectors, an empty Braille cell.
# Also private use, and what is not assigned.
INVISIBLE = [
    *"\u3164\u115f\u1160\uffa0\u2800\u034f\ufe00\ufe0f\u17b4\u17b5\u180b\u180d\u180f\U000e0100\U000e01ef",
    *"\ue000\uf8ff\U000f0000\U0010fffd\u0378\uffff\U000e0fff",
]


def inside() -> list[str]:
    """What cannot be seen: control characters, characters without width, ends of lines, undecodable bytes."""
    kinds = {"Cc", "Cf", "Zl", "Zp"}
    hidden = {chr(code) for code in range(1, 0x110000) if unicodedata.category(chr(code)) in kinds}
    return sorted({*hidden, *INVISIBLE, *map(chr, range(0xDC80, 0xDD00))})  # the last: bytes that are no UTF-8


def said(monkeypatch: pytest.MonkeyPatch, kind: type[BaseSettings], **values: str) -> dict[str, str]:
    """What is said of these values, by the settings' names, without showing anything of them."""
    with pytest.raises(SettingsError) as caught:
        read(monkeypatch, kind, **values)
    assert "correct" not in "".join(traceback.format_exception(caught.value))
    head, *lines = str(caught.value).splitlines()
    assert head == "The settings are wrong:"
    parts = [line.strip().partition(": ") for line in lines]
    return {name.partition("[")[0].removeprefix(PREFIX).lower(): text for name, _, text in parts}


@of_every_kind
def test_what_cannot_be_seen_inside_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, kind: type[BaseSettings]
) -> None:
    for hidden in ("\n", "\t", "\r", "\x01", "\x1f", "\x7f", "\x85", "\u2028", "\u200b", "\ufeff", "\udcff"):
        values = {}
        for field in kind.model_fields:
            value = value_of(field) if len(value_of(field)) > 1 else "12"
            values[field] = value[:1] + hidden + value[1:]
        found = said(monkeypatch, kind, **values)
        assert found.keys() == values.keys()
        assert all(f"U+{ord(hidden):04X}" in text for text in found.values()), found


@given(hidden=st.sampled_from(inside()), data=st.data())
def test_every_such_character_is_found_wherever_it_stands(hidden: str, data: Any) -> None:
    field = data.draw(st.sampled_from(sorted(VALUES)))
    kind = kind_with(field)
    value = VALUES[field].partition(",")[0]
    at = data.draw(st.integers(1, len(value) - 1).filter(lambda at: "=" not in value[at - 1 : at + 1]))
    with pytest.MonkeyPatch.context() as monkeypatch:
        found = said(monkeypatch, kind, **{field: value[:at] + hidden + value[at:]})
    assert found.keys() == {field}
    assert f"U+{ord(hidden):04X}" in found[field]


@of_every_url
def test_a_url_has_no_blank_inside(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    """`mongodb://db/shop ?replicaSet=rs0` is another database."""
    value = VALUES[field]
    for blank in (blank for blank in BLANKS if unicodedata.category(blank) == "Zs"):
        for at in (value.index("correct") + 3, len(value.partition("?")[0]) - 1, value.index("@") + 2):
            found = said(monkeypatch, kind_with(field), **{field: value[:at] + blank + value[at:]})
            assert found == {field: "has a blank inside: remove it, or write it as %20 if it is part of the password"}


@of_every_url
def test_nor_is_one_escaped_into_a_host_or_a_database(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    before, mark, after = VALUES[field].partition("?")
    for escaped in ("%0A", "%0d", "%09", "%20", "%C2%A0", "%00", "%EF%BB%BF"):
        found = said(monkeypatch, kind_with(field), **{field: before + escaped + mark + after})
        assert found.keys() == {field}


@pytest.mark.parametrize("character", INVISIBLE, ids=ascii)
def test_what_is_invisible_names_no_other_database(monkeypatch: pytest.MonkeyPatch, character: str) -> None:
    escaped = quote(character, errors="surrogatepass")
    for name in ("sh{}op", "shop{}", "{}shop"):
        for written in (character, escaped):
            url = f"mongodb://me:correct@db/{name.format(written)}?replicaSet=rs0"
            assert said(monkeypatch, kind_with("mongodb_url"), mongodb_url=url).keys() == {"mongodb_url"}


@pytest.mark.parametrize(
    "sign", [*";,&='`)(]}>:|*!^\\", "%3B", "%3F", "%2C", "%0A", "%20", "%40", ".", ".users", "%2F"]
)
def test_nor_does_a_sign_by_mistake(monkeypatch: pytest.MonkeyPatch, sign: str) -> None:
    """`shop;` for a list of URLs, `shop&w=1` for a forgotten question mark."""
    for name in (f"shop{sign}", f"shop{sign}w=1"):
        found = said(monkeypatch, kind_with("mongodb_url"), mongodb_url=f"mongodb://me:correct@db/{name}")
        assert found.keys() == {"mongodb_url"}
    url = f"mongodb://me:correct@db/shop{sign}?replicaSet=rs0"
    assert said(monkeypatch, kind_with("mongodb_url"), mongodb_url=url).keys() == {"mongodb_url"}


@pytest.mark.parametrize(
    "name", ["shop", "shop-2", "shop_eu", "Shop", "42", "boutique-\u00e9t\u00e9", "\u5e97", "%E5%BA%97"]
)
def test_names_of_databases(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    url = f"mongodb://db/{name}"
    settings: Any = read(monkeypatch, kind_with("mongodb_url"), mongodb_url=url)
    assert settings.mongodb_url == url


@pytest.mark.parametrize(
    ("field", "option"),
    [
        ("mongodb_url", "mongodb://db/shop?replicaSet=rs0{}"),
        ("mongodb_url", "mongodb://db/shop?authSource={}admin"),
        ("mongodb_url", "mongodb+srv://db.example.com/shop?authSource=admin{}&w=1"),
        ("mongodb_url", "mongodb://db/shop?w=1{}"),
        ("redis_url", "redis://cache?client_name=shop{}"),
        ("redis_url", "redis://cache?db=1{}"),
        ("broker_url", "amqp://broker//?heartbeat=15{}"),
        ("broker_url", "amqps://broker//?ssl_cert_reqs=none{}"),
    ],
)
@pytest.mark.parametrize("blank", ["%0A", "%0D%0A", "%20", "%09", "%00", "%E2%80%8B", "%EF%BB%BF", "%E3%85%A4", "+"])
def test_nor_does_an_option_end_in_an_escaped_blank(
    monkeypatch: pytest.MonkeyPatch, field: str, option: str, blank: str
) -> None:
    found = said(monkeypatch, kind_with(field), **{field: option.format(blank)})
    assert found.keys() == {field}


def test_a_file_may_have_a_blank_in_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    url = f"rediss://cache?ssl_ca_path={quote(str(folder))}&ssl_password=%20a%0A"
    settings: Any = read(monkeypatch, kind_with("redis_url"), redis_url=url)
    assert settings.redis_url == url


@of_every_url
def test_a_password_may_hold_anything_that_is_escaped(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    value = VALUES[field].replace("correcthorse", "a%20%0A%23%2F%3F%40%C2%A0b")
    assert getattr(read(monkeypatch, kind_with(field), **{field: value}), field) == value


def test_a_url_given_to_a_client_is_read_as_a_setting_is() -> None:
    database = connect_mongodb("mongodb://db/shop\n", 1)
    assert database.name == "shop"
    database.client.close()
    with pytest.raises(SettingsError, match=r"CACHEKEEPER_MONGODB_URL.*U\+000A"):
        connect_mongodb("mongodb://db/sh\nop", 1)
    client: Any = connect_redis("\ufeffredis://cache/3\r\n", 1)
    assert client.connection_pool.connection_kwargs["db"] == 3
    with pytest.raises(SettingsError, match=r"CACHEKEEPER_REDIS_URL.*U\+000D"):
        connect_redis("redis://cache/3\r4", 1)
