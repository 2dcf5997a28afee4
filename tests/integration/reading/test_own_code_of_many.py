"""What the code of a view raises where many keys are written, warmed or audited."""

from __future__ import annotations

from typing import Any

import pytest

from cachekeeper import Document, View
from cachekeeper.applying.batch import apply
from cachekeeper.errors import ViewFailed
from cachekeeper.model.commands import Write
from cachekeeper.upkeep.audit import audit
from cachekeeper.upkeep.warming import Fate, warm_view
from cachekeeper.values.codecs import Json
from testkit.counting import counted
from testkit.shop import Shop, put_user
from tests.integration.reading.own_code import ANY, SECRET, view


@ANY
def test_an_event_whose_value_cannot_be_written_fails_alone(shop: Shop, kind: type[Exception]) -> None:
    keeper, own = shop.keeper(), view(kind)
    shop.redis.set("own:2", "Bob")
    bad, good = apply(keeper, [[Write(own, "1", "unwritable", 1)], [Write(own, "2", "Ben", 1)]])
    assert isinstance(bad.error, ViewFailed)
    assert type(bad.error.__cause__) is kind
    assert good.error is None
    assert shop.redis.get("own:2") is None


@ANY
def test_warming_and_the_audit_go_on_behind_it(shop: Shop, kind: type[Exception]) -> None:
    names = ["Ann", "unloadable", "Bob", "unwritable", "unreadable", "Cleo"]
    shop.db.users.insert_many([{"_id": at, "name": name} for at, name in enumerate(names)])
    keeper, own = shop.keeper(), view(kind)
    progress = warm_view(keeper, own)
    assert progress.fates == {Fate.FILLED: 3, Fate.DAMAGED: 3}
    assert sorted(shop.redis.keys("own:*")) == [b"own:0", b"own:2", b"own:5"]
    shop.redis.set("own:1", "?")
    found = audit(keeper, own, grace=0)
    assert (found.right, found.wrong) == (3, ["own:1"])


def test_it_is_logged_which_decoder_failed(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    put_user(shop, "Ann", 1)
    shop.redis.set("own:1", "unreadable")
    assert shop.keeper().read(view(ZeroDivisionError), 1) == "Ann"
    assert "view own: its codec raised ZeroDivisionError for the value at a key" in caplog.text
    assert SECRET not in caplog.text


def test_the_shipped_codecs_read_what_they_wrote(shop: Shop) -> None:
    loader: Any = Document("users", lambda document: document["data"], fields=("data",))
    own: View[Any] = View(name="own", key="own:{id}", ttl_seconds=60, codec=Json(dict), loader=loader)
    shop.db.users.insert_one({"_id": 1, "data": {"a": [1, 2.5, None, {"b": "x"}]}})
    keeper = shop.keeper()
    with counted() as seen:
        assert [keeper.read(own, 1), keeper.read(own, 1)] == [{"a": [1, 2.5, None, {"b": "x"}]}] * 2
    assert (seen["damaged_value"], seen["load"]) == (0, 1)
