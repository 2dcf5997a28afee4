"""What modules register has to fit together, and says what does not."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from cachekeeper.errors import InvalidEvent, RegistrationError, SettingsError
from cachekeeper.model.commands import Command, Invalidate
from cachekeeper.model.event_field_types import Id
from cachekeeper.model.events import Event
from cachekeeper.model.registry import Registry, load_registry
from cachekeeper.model.sources import Document, Query
from cachekeeper.model.views import BlocklistView, TextView, View
from cachekeeper.values.codecs import Json, Text


def view(name: str, key: str) -> View[str]:
    return View(name=name, key=key, ttl_seconds=60, codec=Text(), loader=Document("things", lambda _: "x", fields=()))


def text_view(name: str, key: str) -> TextView[Any]:
    return TextView(name=name, key=key, ttl_seconds=60, codec=Json(list), loader=Query("things", lambda _: {}))


class OrderChanged(Event):
    """An event of a package of one's own."""

    type: Literal["order.changed"] = "order.changed"
    order_id: Id


ORDER = view("order_status", "order:{id}:status")


def on_order_changed(event: OrderChanged) -> Iterable[Command]:
    yield Invalidate(ORDER, event.order_id)


def test_an_event_reaches_its_handler() -> None:
    registry = Registry()
    registry.add_view(ORDER)
    registry.add_event(OrderChanged)
    registry.add_handler(OrderChanged, on_order_changed)
    event = registry.decode({"type": "order.changed", "order_id": 5})
    assert registry.commands(event) == [Invalidate(ORDER, "5")]


def test_an_event_without_a_handler_asks_for_nothing() -> None:
    registry = Registry()
    registry.add_event(OrderChanged)
    assert registry.commands(OrderChanged(order_id="5")) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("user:{id}", "user:{id}:name"),  # meet at user:x:name
        ("user:{id}:name", "user:{id}:name"),
        ("a:{id}", "a:b:{id}"),
        ("a:{id}:z", "a:{id}:y:z"),
        ("a:{id}b", "a:b:{id}"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_views_whose_keys_could_meet_are_refused(first: str, second: str, turned: bool) -> None:  # noqa: FBT001
    registry = Registry()
    one, two = (second, first) if turned else (first, second)
    registry.add_view(view("one", one))
    with pytest.raises(RegistrationError, match=r"view two: its key .* could be the same as .* of view one"):
        registry.add_view(view("two", two))
    assert list(registry.views) == ["one"]


@pytest.mark.parametrize(
    ("first", "second"),
    [("user:{id}:name", "user:{id}:mail"), ("user:{id}", "users:{id}"), ("session:{id}", "blocked:{id}")],
)
def test_views_whose_keys_cannot_meet_are_taken(first: str, second: str) -> None:
    registry = Registry()
    registry.add_view(view("one", first))
    registry.add_view(view("two", second))
    assert list(registry.views) == ["one", "two"]


def test_views_of_all_kinds_are_held_against_each_other() -> None:
    registry = Registry()
    registry.add_view(text_view("search", "x:{text}"))
    with pytest.raises(RegistrationError, match="could be the same"):
        registry.add_view(view("one", "x:{id}"))
    with pytest.raises(RegistrationError, match="could be the same"):
        registry.add_view(BlocklistView(name="two", key="x:y:{id}", collection="c", ends="e"))


@pytest.mark.parametrize("ends", ["", "a.b", "$a", "a."])
def test_the_end_of_a_block_is_one_field(ends: str) -> None:
    with pytest.raises(RegistrationError, match="view two: ends must be the name of one field"):
        BlocklistView(name="two", key="x:y:{id}", collection="c", ends=ends)


def test_a_name_stands_for_one_view() -> None:
    registry = Registry()
    registry.add_view(view("one", "a:{id}"))
    with pytest.raises(RegistrationError, match="view one: another view has that name"):
        registry.add_view(view("one", "b:{id}"))


@pytest.mark.parametrize(
    "key",
    ["order", "order:{text}", "{id}", "{id}:x", "order:{id}:{id}", "order:{{id}}", "cachekeeper:x:{id}", "c{id}"],
)
def test_wrong_templates(key: str) -> None:
    with pytest.raises(RegistrationError, match="key template"):
        view("one", key)


@pytest.mark.parametrize("name", ["", "a b", "a-b", "5a"])
def test_a_view_is_named_by_an_identifier(name: str) -> None:
    with pytest.raises(RegistrationError, match="must be an identifier"):
        view(name, "a:{id}")


def test_a_type_stands_for_one_event() -> None:
    class Other(OrderChanged):
        """Has its type."""

    registry = Registry()
    registry.add_event(OrderChanged)
    with pytest.raises(RegistrationError, match=r"OrderChanged already has the type 'order\.changed'"):
        registry.add_event(Other)


def test_an_event_needs_a_type_of_its_own() -> None:
    class Nameless(Event):
        """Has none."""

        secret_fields: ClassVar[frozenset[str]] = frozenset()

    with pytest.raises(RegistrationError, match="event Nameless: give its field 'type' a default"):
        Registry().add_event(Nameless)


def test_a_handler_needs_its_event_and_is_alone() -> None:
    registry = Registry()
    with pytest.raises(RegistrationError, match="register the event OrderChanged first"):
        registry.add_handler(OrderChanged, on_order_changed)
    registry.add_event(OrderChanged)
    registry.add_handler(OrderChanged, on_order_changed)
    with pytest.raises(RegistrationError, match="has a handler already"):
        registry.add_handler(OrderChanged, on_order_changed)


def test_an_unknown_view_is_told_apart_from_the_known() -> None:
    registry = load_registry(["lookups"])
    assert registry.view("user_name").name == "user_name"
    with pytest.raises(RegistrationError, match="unknown view 'usr'; use one of: blocked, search, session, user_name"):
        registry.view("usr")


def test_the_shipped_modules_fit_together() -> None:
    registry = load_registry(["producers", "lookups", "worker"])
    assert set(registry.views) == {"user_name", "session", "blocked", "search"}
    told = {"user.updated", "user.deleted", "user.logged_out", "product.changed"}
    assert set(registry.events) == {*told, "collection.changed"}
    assert set(registry.handlers) == set(registry.events.values())
    assert {index.collection for index in registry.indexes} == {"sessions", "blocked_tokens"}


def test_modules_that_come_in_the_wrong_order_are_told() -> None:
    with pytest.raises(RegistrationError, match="register the event UserUpdated first"):
        load_registry(["lookups", "worker", "producers"])


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of modules that can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["there_is_none", "there.is.none", "cachekeeper.there_is_none"])
def test_a_module_that_is_not_there(name: str) -> None:
    with pytest.raises(SettingsError, match="CACHEKEEPER_MODULES: there is no module"):
        load_registry([name])


@pytest.mark.parametrize("name", [".relative", "..", "a..b", "a b", "shop/views"])
def test_what_can_be_no_module(name: str) -> None:
    with pytest.raises(SettingsError, match=r"CACHEKEEPER_MODULES: .* cannot be a module name"):
        load_registry([name])


def test_a_module_without_a_register_function(modules: Path) -> None:
    (modules / "shop_silent.py").write_text("register = 5\n")
    with pytest.raises(SettingsError, match=r"module 'shop_silent' .*shop_silent\.py\) has no function register"):
        load_registry(["shop_silent"])


def test_a_module_that_imports_in_vain_shows_what(modules: Path) -> None:
    (modules / "shop_broken.py").write_text("import there_is_none\n")
    with pytest.raises(ModuleNotFoundError, match="there_is_none"):
        load_registry(["shop_broken"])


def test_a_body_with_a_type_that_cannot_be_looked_up() -> None:
    with pytest.raises(InvalidEvent):
        load_registry(["producers"]).decode({"type": ["user.updated"]})


@pytest.mark.parametrize("modules", [("lookups", "lookups"), ("producers", "lookups", "producers")])
def test_a_module_that_is_named_twice(modules: tuple[str, ...]) -> None:
    twice = modules[-1]
    with pytest.raises(SettingsError, match=f"^CACHEKEEPER_MODULES: '{twice}' is named twice; name each module once$"):
        load_registry(modules)


def test_every_module_that_cannot_be_used_is_named_and_nothing_registered(modules: Path) -> None:
    (modules / "shop_silent.py").write_text("")
    (modules / "shop_loud.py").write_text("def register(registry):\n    raise AssertionError\n")
    with pytest.raises(SettingsError) as raised:
        load_registry(["shop_loud", "shop_loud", "there_is_none", "a b", "shop_silent"])
    lines = str(raised.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["CACHEKEEPER_MODULES"] * 4
    for name, line in zip(["shop_loud", "there_is_none", "a b", "shop_silent"], lines, strict=True):
        assert repr(name) in line
