"""Sessions, logged-out tokens, and searches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from verification.races.adapters.base import SESSION, SESSION_SECONDS, persist_block
from verification.races.points import names

if TYPE_CHECKING:
    from verification.races.stage import Stage

FIRST, SECOND = {"cart": [1]}, {"cart": [1, 2]}
TOKENS = ("token-1", "token-2")


def logout_overtakes_save(stage: Stage) -> None:
    """save: MongoDB · logout, whole, acknowledged · save: its write to Redis · a read."""
    stage.client().save_session(FIRST)
    saver = stage.client()
    write = saver.wire.hold("before", names(saver.key("session", SESSION)))
    save = stage.start(saver, saver.save_session, SECOND)
    save.arrive(write)
    stage.client().log_out()
    write.open()
    stage.outcome(save)
    stage.judge(stage.client().read_session(), None)


def logout_overtakes_read(stage: Stage) -> None:
    """reader: load · logout, whole, acknowledged · reader: fill · a read."""
    stage.client().save_session(FIRST)
    stage.evict_all()
    reader, has_read = stage.client(), stage.after_the_database_read()
    read = stage.start(reader, reader.read_session)
    read.arrive(has_read)
    stage.client().log_out()
    has_read.open()
    stage.outcome(read)
    stage.judge(stage.client().read_session(), None)


def foreign_set_after_logout(stage: Stage) -> None:
    """Another service has read it · logout, acknowledged · its late SET, of the very bytes that were there · a read."""
    ours = stage.client()
    ours.save_session(FIRST)
    ours.read_session()
    raw = stage.taken(ours.key("session", SESSION))
    ours.log_out()
    stage.redis.set(ours.key("session", SESSION), raw, ex=SESSION_SECONDS)
    stage.judge(stage.client().read_session(), None)


def login_during_a_lookup(stage: Stage) -> None:
    """Reader: no such session · another service saves it, SET NX · reader: fills that, if it does · a read."""
    ours = stage.client()
    ours.save_session(FIRST)
    ours.read_session()
    raw = stage.taken(ours.key("session", SESSION))
    stage.evict_all()
    stage.database.sessions.delete_many({})
    reader, has_read = stage.client(), stage.after_the_database_read()
    read = stage.start(reader, reader.read_session)
    read.arrive(has_read)
    stage.redis.set(ours.key("session", SESSION), raw, ex=SESSION_SECONDS, nx=True)
    has_read.open()
    stage.outcome(read)
    stage.judge(stage.client().read_session(), FIRST)


def shorter_block(stage: Stage) -> None:
    """Warmed · blocked for three hours · blocked for one, a late duplicate · two hours pass · is it blocked?"""
    worker, now = stage.client(), datetime.now(UTC)
    worker.warm_blocks(())
    for hours in (3, 1):
        worker.block(TOKENS[0], now + timedelta(hours=hours))
    stage.let_pass(timedelta(hours=2))
    stage.judge(stage.client().is_blocked(TOKENS[0]), true=True)


def flush_while_warming(stage: Stage) -> None:
    """warming: all but the last write · Redis is flushed · warming: the last write · is a token blocked?"""
    for token in TOKENS:
        persist_block(stage.database, token, datetime.now(UTC) + timedelta(hours=1))
    worker = stage.client()
    last = worker.wire.hold("before", lambda words: worker.ends_warming(words, TOKENS[-1]))
    warming = stage.start(worker, worker.warm_blocks, TOKENS)
    warming.arrive(last)
    stage.evict_all()
    last.open()
    stage.outcome(warming)
    stage.judge(stage.client().is_blocked(TOKENS[0]), true=True)


def block_during_a_lookup(stage: Stage) -> None:
    """reader: not blocked, says MongoDB · blocked, acknowledged · reader: caches that, if it does · is it blocked?"""
    reader, has_read = stage.client(), stage.after_the_database_read()
    read = stage.start(reader, reader.is_blocked, TOKENS[0])
    read.settle(has_read)
    stage.client().block(TOKENS[0], datetime.now(UTC) + timedelta(hours=1))
    has_read.open()
    stage.outcome(read)
    stage.judge(stage.client().is_blocked(TOKENS[0]), true=True)


def search_against_a_change(stage: Stage) -> None:
    """search: load · the product is renamed, acknowledged · search: fill · a search."""
    stage.product("Lamp")
    reader, has_read = stage.client(), stage.after_the_database_read()
    early = stage.start(reader, reader.search, "lamp")
    early.arrive(has_read)
    stage.product("Oak desk")
    stage.client().product_renamed("Lamp", "Oak desk")
    has_read.open()
    stage.outcome(early)
    stage.judge(stage.client().search("lamp"), [])


def cached_searches_of_both_names(stage: Stage) -> None:
    """A search that finds it, and one that will, are cached · the product is renamed, acknowledged · both searches."""
    stage.product("Lamp")
    reader = stage.client()
    for text in ("lamp", "oak"):
        reader.search(text)
    stage.product("Oak desk")
    stage.client().product_renamed("Lamp", "Oak desk")
    stage.judge(stage.client().search("lamp"), [])
    stage.judge(stage.client().search("oak"), ["Oak desk"])


def search_without_metadata(stage: Stage) -> None:
    """The same; what is kept beside the values (lease, lock, filter) evicted in each gap."""
    for gap in range(2):
        stage.evict_all()
        stage.product("Lamp")
        reader, worker, has_read = stage.client(), stage.client(), stage.after_the_database_read()
        early = stage.start(reader, reader.search, "lamp")
        early.arrive(has_read)
        if gap == 0:
            stage.evict_metadata(worker, "search", "lamp")
        stage.product("Oak desk")
        worker.product_renamed("Lamp", "Oak desk")
        if gap == 1:
            stage.evict_metadata(worker, "search", "lamp")
        has_read.open()
        stage.outcome(early)
        stage.judge(stage.client().search("lamp"), [])


def search_older_than_the_filter(stage: Stage) -> None:
    """A search is cached · what is kept beside it is evicted · another search · the product is renamed · both again."""
    stage.product("Lamp")
    reader = stage.client()
    reader.search("lamp")
    stage.evict_metadata(reader, "search", "lamp")
    reader.search("oak")
    stage.product("Oak desk")
    stage.client().product_renamed("Lamp", "Oak desk")
    stage.judge(stage.client().search("lamp"), [])
    stage.judge(stage.client().search("oak"), ["Oak desk"])


PLAYS = {
    "logout overtakes a session's save": logout_overtakes_save,
    "logout overtakes a session's load": logout_overtakes_read,
    "a foreign SET after the logout": foreign_set_after_logout,
    "a foreign login while 'no session' is being looked up": login_during_a_lookup,
    "a shorter block after a longer one": shorter_block,
    "flush while blocks are being warmed": flush_while_warming,
    "blocked while 'not blocked' is being looked up": block_during_a_lookup,
    "search fill against a product change": search_against_a_change,
    "search fill against a product change, metadata evicted": search_without_metadata,
    "cached searches of the old and the new name": cached_searches_of_both_names,
    "a cached search older than the filter of texts": search_older_than_the_filter,
}
