"""Handlers are pure: what an event asks for, as values."""

from datetime import UTC, datetime

import pytest

from cachekeeper.model.commands import (
    Block,
    Command,
    Expire,
    Invalidate,
    InvalidateAll,
    InvalidateWithin,
    Persist,
    Write,
)
from cachekeeper.model.events import Event
from cachekeeper.model.registry import load_registry
from lookups.products import SEARCH
from lookups.sessions import END_SESSION, SESSION
from lookups.tokens import BLOCKED
from lookups.users import USER_NAME
from producers import ProductChanged, UserDeleted, UserLoggedOut, UserUpdated

REGISTRY = load_registry(["producers", "lookups", "worker"])
WHEN = datetime(2031, 1, 1, tzinfo=UTC)


def asks(event: Event) -> list[Command]:
    commands = REGISTRY.commands(event)
    assert REGISTRY.commands(event) == commands, "a handler that answers differently when asked again is not pure"
    return commands


def test_an_update_with_a_version_is_written() -> None:
    assert asks(UserUpdated(user_id="42", name="Ada", version=7)) == [Write(USER_NAME, "42", "Ada", 7)]


def test_version_0_is_a_version() -> None:
    assert asks(UserUpdated(user_id="42", name="Ada", version=0)) == [Write(USER_NAME, "42", "Ada", 0)]


def test_an_update_without_one_invalidates_and_never_writes() -> None:
    assert asks(UserUpdated(user_id="42", name="Ada")) == [Invalidate(USER_NAME, "42")]


def test_a_deletion_invalidates() -> None:
    assert asks(UserDeleted(user_id="tenant:42")) == [Invalidate(USER_NAME, "tenant:42")]


def test_a_logout_ends_the_session_in_mongodb_first() -> None:
    persist, expire = asks(UserLoggedOut(session_id="s"))
    assert persist == Persist(SESSION, "s", END_SESSION)
    assert expire == Expire(SESSION, "s", None)


@pytest.mark.parametrize("until", [None, WHEN])
def test_a_logout_blocks_the_token(until: datetime | None) -> None:
    assert asks(UserLoggedOut(token_id="t", token_expires_at=until)) == [Block(BLOCKED, "t", until)]


def test_a_logout_does_both() -> None:
    found = asks(UserLoggedOut(session_id="s", token_id="t", token_expires_at=WHEN, user_id="42"))
    assert [type(command) for command in found] == [Persist, Expire, Block]


def test_a_renamed_product_invalidates_by_both_names() -> None:
    found = asks(ProductChanged(product_id="1", name="Lamp", previous_name="Light", version=3))
    assert found == [InvalidateWithin(SEARCH, ("Lamp", "Light"))]


def test_a_product_that_kept_its_name_invalidates_by_it() -> None:
    (found,) = asks(ProductChanged(product_id="1", name="Lamp", previous_name="Lamp"))
    assert isinstance(found, InvalidateWithin)
    assert set(found.names) == {"Lamp"}


def test_a_new_product_invalidates_by_its_name() -> None:
    assert asks(ProductChanged(product_id="1", name="Lamp", previous_name=None)) == [
        InvalidateWithin(SEARCH, ("Lamp",))
    ]


def test_a_product_whose_previous_name_nobody_knows_drops_every_search() -> None:
    (found,) = asks(ProductChanged(product_id="1", name="Lamp"))
    assert isinstance(found, InvalidateAll)
    assert found.view is SEARCH


@pytest.mark.parametrize(
    "names", [{"name": "Lamp"}, {"previous_name": "Lamp"}, {"name": "Lamp", "previous_name": None}]
)
def test_a_deleted_product_invalidates_by_the_name_it_had(names: dict[str, str | None]) -> None:
    found = asks(ProductChanged(product_id="1", deleted=True, **names))  # type: ignore[arg-type]  # names are names
    assert found == [InvalidateWithin(SEARCH, ("Lamp",))]


def test_a_deleted_product_without_a_name_drops_every_search() -> None:
    for event in (
        ProductChanged(product_id="1", deleted=True),
        ProductChanged(product_id="1", deleted=True, previous_name=None),
    ):
        (found,) = asks(event)
        assert isinstance(found, InvalidateAll)
        assert found.view is SEARCH
