"""The steps of the demonstration: each function is one step, and checks what it shows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cachekeeper import Event, Server, make_redis_client
from cachekeeper.upkeep.audit import audit
from demo import shop
from demo.show import Read, Stage
from lookups import (
    BLOCKED,
    SEARCH,
    SESSION,
    USER_NAME,
    SessionEnded,
    block_token,
    is_blocked,
    read_session,
    read_user,
    save_session,
    search_products,
)
from producers import ProductChanged, UserDeleted, UserLoggedOut, UserUpdated, publish, publish_many

CACHE, SECURITY = Server.CACHE, Server.SECURITY


def load_shop(stage: Stage) -> None:
    """Fill MongoDB."""
    stage.step("A shop", "Users and products go to MongoDB. Redis is empty.")
    database = stage.keeper.database
    database.users.insert_many(shop.users())
    database.products.insert_many(shop.products())
    stage.check(database.users.count_documents({}) == shop.USERS, "all users are in MongoDB")
    stage.check(database.products.count_documents({}) == shop.PRODUCTS, "all products are in MongoDB")
    stage.console.print(f"{shop.USERS:,} users, {shop.PRODUCTS:,} products", style="bold")


def read_first(stage: Stage) -> None:
    """Read with misses, fills and hits, and read users that do not exist."""
    stage.step(
        "Reads",
        "A read asks Redis first, then MongoDB. Redis also remembers what does not exist, but never as a value.",
    )
    names = {user["_id"]: user["name"] for user in shop.users()}
    answers = stage.reads(_user_reads(stage, 7, 7, 8, 8, 99_999, 99_999))
    stage.check(answers == [names[7], names[7], names[8], names[8], None, None], "reads give the database's names")


def update_user(stage: Stage) -> None:
    """Rename a user twice, with events out of order."""
    stage.step(
        "user.updated",
        "The service changes MongoDB, then publishes. The worker overwrites a value whose version it knows. If nothing "
        "was cached, it reads from MongoDB. An older event that comes late changes nothing.",
    )
    users = stage.keeper.database.users
    stage.keys(CACHE, ["user:7:name", "user:8:name", "user:9:name"])
    for version, name in ((2, "Ada King"), (3, "Ada Lovelace")):
        users.update_one({"_id": 7}, {"$set": {"name": name, "version": version}})
    users.update_one({"_id": 9}, {"$set": {"name": "Grace Hopper", "version": 2}})
    publish_many(
        [
            UserUpdated(user_id="7", name="Ada Lovelace", version=3),
            UserUpdated(user_id="7", name="Ada King", version=2),
            UserUpdated(user_id="9", name="Grace Hopper", version=2),
        ]
    )
    took = stage.wait(
        lambda: (
            stage.peek(CACHE, "user:7:name") == "Ada Lovelace" and stage.peek(CACHE, "user:9:name") == "Grace Hopper"
        ),
        "the worker writes both names",
    )
    stage.changes(CACHE, "user.updated three times: user 7 at version 3, then at 2; user 9", took)
    stage.check(stage.reads(_user_reads(stage, 7, 9)) == ["Ada Lovelace", "Grace Hopper"], "the newest names are read")


def delete_user(stage: Stage) -> None:
    """Delete a user."""
    stage.step("user.deleted", "A deletion has no version: the key and its metadata are removed.")
    stage.keys(CACHE, ["user:8:name"])
    stage.keeper.database.users.delete_one({"_id": 8})
    publish(UserDeleted(user_id="8"))
    took = stage.wait(lambda: stage.peek(CACHE, "user:8:name") in {"(nothing)", "(known absent)"}, "the name goes away")
    stage.changes(CACHE, "user.deleted: user 8", took)
    stage.check(stage.reads(_user_reads(stage, 8, 8)) == [None, None], "the user is gone")


def search(stage: Stage) -> None:
    """Rename a product. Only the searches that could find it are dropped."""
    stage.step(
        "product.changed",
        "Searches are cached by their folded text. A rename drops the searches whose text occurs in the old or the new "
        "name, and no others, even if many are cached.",
    )
    products = stage.keeper.database.products
    products.insert_one({"_id": 5000, "name": "Blue lava lamp", "price": 49.0, "version": 1})
    texts = ("lava", "LAVA", "lamp", "glass", "C++", ".*")
    keys = ["search:lava", "search:lamp", "search:glass", "search:c++", "search:.*"]

    first = stage.reads(_search_reads(stage, *texts))
    stage.check(first[0] == first[1] == ["Blue lava lamp"], "both spellings of a text find the product")
    stage.check(first[4] == first[5] == [], "a text full of regex characters is taken literally")
    stage.keys(CACHE, keys)
    products.update_one({"_id": 5000}, {"$set": {"name": "Blue glass lamp", "version": 2}})
    publish(ProductChanged(product_id="5000", name="Blue glass lamp", previous_name="Blue lava lamp", version=2))
    took = stage.wait(lambda: stage.peek(CACHE, "search:glass") == "(nothing)", "the search for glass is removed")
    stage.changes(CACHE, "product.changed: Blue lava lamp is now Blue glass lamp", took)
    stage.check(stage.peek(CACHE, "search:c++") == "[]", "an unrelated search stays")
    second = stage.reads(_search_reads(stage, *texts))
    stage.check(second[0] == [] and second[3] == ["Blue glass lamp"], "the product is found by its new name only")


def log_out(stage: Stage) -> None:
    """Save, read and end a session. Its token is blocked."""
    stage.step(
        "user.logged_out",
        "Sessions live in MongoDB first, so that a flush logs out no user. Logging out ends the session for good, and "
        "blocks the token until it expires.",
    )
    save_session("s-42", {"user": 7, "cart": ["mug", "rug"]}, keeper=stage.keeper)
    save_session("s-43", {"user": 9, "cart": []}, keeper=stage.keeper)
    block_token("t-lost", datetime.now(UTC) + timedelta(hours=1), keeper=stage.keeper)
    read = [
        ("read_session('s-42')", SECURITY, "session:s-42", lambda: read_session("s-42", keeper=stage.keeper)),
        ("is_blocked('t-42')", SECURITY, "blocked:t-42", lambda: is_blocked("t-42", keeper=stage.keeper)),
        (
            "is_blocked('t-lost')",
            SECURITY,
            "blocked:t-lost",
            lambda: is_blocked("t-lost", keeper=stage.keeper),
        ),
    ]
    answers = stage.reads(read)
    stage.check(answers == [{"user": 7, "cart": ["mug", "rug"]}, False, True], "the session lives, its token is free")
    stage.keys(SECURITY, ["session:s-42", "blocked:t-42"])
    expires = datetime.now(UTC) + timedelta(hours=1)
    event = UserLoggedOut(session_id="s-42", token_id="t-42", token_expires_at=expires, user_id="7")  # noqa: S106  # an id
    publish(event)
    took = stage.wait(
        lambda: stage.peek(SECURITY, "blocked:t-42") == "true" and stage.peek(SECURITY, "session:s-42") == "(ended)",
        "the session ends and the token is blocked",
    )
    stage.changes(SECURITY, "user.logged_out: session s-42, token t-42", took)
    stage.check(stage.reads(read[:2]) == [None, True], "the session is over, the token is blocked")
    another = read_session("s-43", keeper=stage.keeper)
    stage.check(another == {"user": 9, "cart": []}, "another session still lives")
    try:
        save_session("s-42", {"user": 7}, keeper=stage.keeper)
    except SessionEnded as ended:
        stage.console.print(f"save_session('s-42', …) raises [bold]SessionEnded[/]: {ended}")
    else:
        stage.check(right=False, what="a late save must not raise a session that has ended")


def publish_in_bulk(stage: Stage) -> None:
    """Rename all users and many products while their names are cached."""
    stage.step(
        "In bulk", "All users and every tenth product are renamed. All names and some searches are cached before."
    )
    for user in shop.users():
        read_user(user["_id"], keeper=stage.keeper)
    for text in ("oak", "brass", "0010", "mug", "desk"):
        search_products(text, keeper=stage.keeper)
    database = stage.keeper.database
    database.users.update_many(
        {}, [{"$set": {"name": {"$concat": ["$name", " II"]}, "version": {"$add": ["$version", 1]}}}]
    )
    users = list(database.users.find({}))
    renamed = [(product, product["name"] + " new") for product in shop.products() if product["_id"] % 10 == 0]
    for product, name in renamed:
        database.products.update_one({"_id": product["_id"]}, {"$set": {"name": name, "version": 2}})
    events: list[Event] = [
        UserUpdated(user_id=user["_id"], name=user["name"], version=user["version"]) for user in users
    ]
    events += [
        ProductChanged(product_id=product["_id"], name=name, previous_name=product["name"], version=2)
        for product, name in renamed
    ]
    began = time.perf_counter()
    publish_many(events)
    published = time.perf_counter() - began
    # A longer time limit than readers have: on a busy laptop, thousands of values take longer than theirs.
    client = make_redis_client(str(stage.keeper.settings.redis_url), timeout_seconds=20)
    keys = [f"user:{user['_id']}:name" for user in users]
    wanted = [user["name"].encode() for user in users]
    bar = Progress(
        TextColumn("names that are new in Redis"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=stage.console,
    )
    with bar:
        task = bar.add_task("", total=len(users))

        def applied() -> bool:
            done = sum(map(bytes.__eq__, wanted, (raw or b"" for raw in client.mget(keys))))
            bar.update(task, completed=done)
            return done == len(wanted)

        stage.wait(applied, "all names are new in Redis", 40)
    seconds = time.perf_counter() - began
    stage.console.print(
        f"The broker confirmed {len(events):,} events in {published:.2f} s. All names were new in Redis "
        f"{seconds:.2f} s after the first event was sent."
    )
    stage.wait(lambda: _first_name(stage, "0010").endswith(" new"), "the renamed product is found by its number")
    stage.check(client.mget(keys) == wanted, "every name is the new one")
    client.close()


def check_everything(stage: Stage) -> None:
    """Compare every cached key with the database."""
    stage.step("The check", "Every key in both Redis servers is compared with MongoDB.")
    table = Table(box=SIMPLE_HEAD)
    for column in ("view", "keys", "right", "without a value", "wrong"):
        table.add_column(column, justify="left" if column == "view" else "right")
    wrong: list[str] = []
    right: list[int] = []
    for view in (USER_NAME, SEARCH, SESSION, BLOCKED):
        found = audit(stage.keeper, view)
        bad = found.wrong + found.unsettled
        count = f"[bold red]{len(bad):,}[/]" if bad else "[green]0[/]"
        table.add_row(view.name, f"{found.checked:,}", f"[green]{found.right:,}[/]", f"{found.valueless:,}", count)
        wrong += bad
        right.append(found.right)
    stage.console.print(table)
    stage.check(all(right) and sum(right) > shop.USERS, "the check saw keys of every view")
    stage.check(not wrong, f"stale keys: {', '.join(wrong[:5])}")


def _user_reads(stage: Stage, *user_ids: int) -> list[Read]:
    return [
        (f"read_user({user_id})", CACHE, f"user:{user_id}:name", partial(read_user, user_id, keeper=stage.keeper))
        for user_id in user_ids
    ]


def _search_reads(stage: Stage, *texts: str) -> list[Read]:
    return [(f"search {text!r}", CACHE, f"search:{text.lower()}", partial(_names, stage, text)) for text in texts]


def _names(stage: Stage, text: str) -> list[str]:
    found = search_products(text, keeper=stage.keeper)
    json.dumps(found)  # a Node.js service would send it on as JSON
    return [product["name"] for product in found][:3]


def _first_name(stage: Stage, text: str) -> str:
    return (_names(stage, text) or [""])[0]


STORY: tuple[Callable[[Stage], None], ...] = (
    load_shop,
    read_first,
    update_user,
    delete_user,
    search,
    log_out,
    publish_in_bulk,
    check_everything,
)
