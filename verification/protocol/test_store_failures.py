"""A store whose server forgets its scripts, hangs, dies or refuses."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from cachekeeper.devservers import RedisServer
from cachekeeper.errors import CacheUnavailable
from cachekeeper.protocol import Store, Value, scripts
from cachekeeper.protocol.outcomes import Acquired, Changed, Filled, Invalidated, Mended, Released
from cachekeeper.protocol.store import STEPS_PER_PIPELINE
from cachekeeper.values.fold import escape_braces
from cachekeeper.values.keys import meta_key
from testkit.waiting import wait_until
from verification.protocol.store_lab import LATER, LEASE, MARKER, TTL, K, M, StoreLab, put_foreign


@pytest.fixture
def own_store(own_redis: RedisServer) -> Iterator[Store]:
    """A store on the test's own server, with time to answer; a dead server refuses at once."""
    with own_redis.client() as client:
        yield Store(client)


@pytest.fixture
def impatient(own_redis: RedisServer) -> Iterator[Store]:
    """A store on the test's own server, which waits half a second for answers."""
    with own_redis.client(timeout=0.5) as client:
        yield Store(client)


def some_step() -> scripts.Step[object]:
    return scripts.change(K, Value(b"secret", 1), ttl_ms=TTL, marker_ms=MARKER)


def refused_step() -> scripts.Step[object]:
    """Return a step that no server can run: its time to live is not a number."""
    step = some_step()
    return dataclasses.replace(step, args=(*step.args[:2], "for ever", *step.args[3:]))


def test_a_server_that_has_forgotten_its_scripts_is_taught_them(store_lab: StoreLab) -> None:
    for _ in range(2):
        store_lab.client.flushall()
        store_lab.client.script_flush()
        assert store_lab.acquire() is Acquired.GRANTED
        assert store_lab.client.script_exists(scripts.acquire(K, "x", lease_ms=1).script.sha) == [True]
    assert store_lab.fill() is Filled.STORED


def test_in_a_pipeline_too_and_every_step_runs_once(store_lab: StoreLab) -> None:
    keys = [f"user:{number}:name" for number in range(10)]
    marks = [scripts.change(key, Value(b"x", 1), ttl_ms=TTL, marker_ms=MARKER) for key in keys]
    gone = [scripts.invalidate(key) for key in keys]
    store_lab.store.run(marks[0])  # the server knows this script and not the other one
    store_lab.client.delete(meta_key(keys[0]))
    assert store_lab.store.run_all(marks + gone) == [Changed.MARKED] * 10 + [Invalidated.INVALIDATED] * 10
    store_lab.client.script_flush()
    assert store_lab.store.run_all(marks) == [Changed.MARKED] * 10
    assert store_lab.store.run_all(marks) == [Changed.IGNORED] * 10


def test_outcomes_come_in_the_order_of_the_steps_however_many(store_lab: StoreLab) -> None:
    count = 2 * STEPS_PER_PIPELINE + 1
    wanted: list[scripts.Step[object]] = [
        scripts.acquire(f"user:{at}:name", "mine", lease_ms=LEASE) if at % 3 else some_step() for at in range(count)
    ]
    outcomes = store_lab.store.run_all(wanted)
    assert len(outcomes) == count
    assert outcomes[0] is Changed.MARKED
    assert set(outcomes[3::3]) == {Changed.IGNORED}
    assert set(outcomes[1::3] + outcomes[2::3]) == {Acquired.GRANTED}


def test_no_steps_are_no_trouble(store_lab: StoreLab) -> None:
    assert store_lab.store.run_all([]) == []


def test_after_a_restart(own_store: Store, own_redis: RedisServer) -> None:
    assert own_store.run(some_step()) is Changed.MARKED
    own_redis.restart()
    with own_redis.client() as client:
        store = Store(client)
        assert store.run(some_step()) is Changed.MARKED
        assert store.run_all([some_step()]) == [Changed.IGNORED]


def test_a_dead_server_is_unavailable_and_comes_back(own_store: Store, own_redis: RedisServer) -> None:
    own_store.run(some_step())
    own_redis.kill()
    for _ in range(2):
        with pytest.raises(CacheUnavailable):
            own_store.run(some_step())
        with pytest.raises(CacheUnavailable):
            own_store.run_all([some_step()])
    own_redis.restart()
    assert own_store.run(some_step()) is Changed.MARKED


def test_a_hung_server_is_unavailable_within_the_time_limit(impatient: Store, own_redis: RedisServer) -> None:

    def answered() -> bool:
        with contextlib.suppress(CacheUnavailable):  # a healthy server may be late, too
            impatient.run(some_step())
            return True
        return False

    wait_until(answered, "a connection, and an answer within half a second")
    own_redis.pause()
    try:
        began = time.monotonic()
        with pytest.raises(CacheUnavailable, match="change") as caught:
            impatient.run(some_step())
        assert time.monotonic() - began < 5
    finally:
        own_redis.resume()
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("many", [False, True])
def test_a_refusal_is_unavailable_and_tells_no_value(store_lab: StoreLab, many: bool) -> None:  # noqa: FBT001 - a parameter of the test
    with pytest.raises(CacheUnavailable) as caught:
        store_lab.store.run_all([refused_step()]) if many else store_lab.run(refused_step())
    assert "secret" not in str(caught.value)
    assert K not in str(caught.value)


def test_one_step_that_fails_does_not_keep_the_others_from_running(store_lab: StoreLab) -> None:
    others = [scripts.change(f"user:{at}:name", Value(b"x", 1), ttl_ms=TTL, marker_ms=MARKER) for at in (1, 2)]
    with pytest.raises(CacheUnavailable):
        store_lab.store.run_all([others[0], refused_step(), others[1]])
    assert store_lab.store.run_all(others) == [Changed.IGNORED] * 2


EVERY_STEP: dict[str, Callable[[], scripts.Step[object]]] = {
    "acquire": lambda: scripts.acquire(K, "mine", lease_ms=LEASE),
    "fill": lambda: scripts.fill(K, "mine", Value(b"x", 1), ttl_ms=TTL, marker_ms=MARKER),
    "fill_absent": lambda: scripts.fill_absent(K, "mine", ttl_ms=TTL),
    "release": lambda: scripts.release(K, "mine"),
    "change": some_step,
    "invalidate": lambda: scripts.invalidate(K),
    "expire": lambda: scripts.expire(K, at_ms=1, keep_ms=TTL),
    "read_until": lambda: scripts.read_until(K),
}


@pytest.mark.parametrize("name", EVERY_STEP)
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("kind", ["string", "list", "stream"])
def test_metadata_that_is_none_is_what_no_metadata_is(store_lab: StoreLab, name: str, many: bool, kind: str) -> None:  # noqa: FBT001
    step, outcomes, left = EVERY_STEP[name](), [], []
    for damaged in (False, True):
        store_lab.client.flushall()
        store_lab.client.set(K, "there") if name == "invalidate" else None
        if damaged:
            store_lab.client.set(M, "x") if kind == "string" else put_foreign(store_lab, M, kind)
        outcomes.append(store_lab.store.run_all([step, step])[0] if many else store_lab.run(step))
        left.append((store_lab.value, store_lab.client.type(M), set(store_lab.meta)))
    assert outcomes[0] == outcomes[1]
    assert left[0] == left[1]


def test_the_others_of_a_pipeline_run_once(store_lab: StoreLab) -> None:
    other = "user:8:name"
    store_lab.client.set(M, "x")
    mine = [scripts.acquire(key, "mine", lease_ms=LEASE) for key in (other, K)]
    assert store_lab.store.run_all([mine[0], mine[1], scripts.release(other, "mine")]) == [
        Acquired.GRANTED,
        Acquired.GRANTED,
        Released.RELEASED,
    ]
    assert set(store_lab.meta) == {b"l", b"lx"}


def test_what_another_has_mended_stays(store_lab: StoreLab) -> None:
    store_lab.expire(store_lab.now() + LATER)
    before = store_lab.meta
    assert store_lab.run(scripts.mend(M)) is Mended.WHOLE
    assert store_lab.meta == before


def test_a_script_that_does_not_run_is_unavailable(store_lab: StoreLab) -> None:
    step = some_step()
    script = scripts.Script("change")
    script.source, script.sha = "this is not Lua", "0" * 40
    with pytest.raises(CacheUnavailable):
        store_lab.run(dataclasses.replace(step, script=script))


# --- Redis Cluster ---------------------------------------------------------------------------------------------------

ids = st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(part=ids)
def test_a_key_and_its_metadata_share_a_slot(part: str) -> None:
    key = f"user:{part}:name"
    assert key_slot(key.encode()) == key_slot(meta_key(key).encode())


@given(text=st.text(st.sampled_from("{}%25BD7x"), min_size=1, max_size=20))
def test_so_does_a_search_whose_text_has_braces(text: str) -> None:
    key = f"search:{escape_braces(text)}"
    assert key_slot(key.encode()) == key_slot(meta_key(key).encode())


def test_each_step_names_its_keys_so_that_a_cluster_can_route_it() -> None:
    named = [
        scripts.acquire(K, "n", lease_ms=1),
        scripts.fill(K, "n", Value(b"", 1), ttl_ms=1, marker_ms=1),
        scripts.fill_absent(K, "n", ttl_ms=1),
        scripts.change(K, Value(b"", 1), ttl_ms=1, marker_ms=1),
        scripts.invalidate(K),
        scripts.expire(K, at_ms=0, keep_ms=1),
        scripts.read_until(K),
    ]
    assert {step.keys for step in named} == {(K, M)}
    assert scripts.release(K, "n").keys == (M,)
    assert scripts.block("blocked:x", None).keys == ("blocked:x",)
