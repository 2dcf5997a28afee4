"""Token blocks only grow, and *ready* is set only if nothing was lost meanwhile; on every server."""

import pytest

from cachekeeper.protocol import scripts
from cachekeeper.protocol.outcomes import Blocked, Readiness
from testkit.mutating import mutate
from testkit.tokens import end_of_key
from verification.protocol.store_lab import FOREIGN, LATER, StoreLab, about, put_foreign

B = "blocked:jti-1"
WARMING = "cachekeeper:blocked-warming"
READY = "cachekeeper:blocked-ready"


def block(lab: StoreLab, ends_ms: int | None) -> object:
    return lab.run(scripts.block(B, ends_ms))


def ready(lab: StoreLab, nonce: str = "nonce") -> object:
    return lab.run(scripts.declare_ready(WARMING, READY, nonce))


def test_a_block_is_the_word_true_until_it_ends(store_lab: StoreLab) -> None:
    assert block(store_lab, store_lab.now() + LATER) is Blocked.BLOCKED
    assert store_lab.client.get(B) == b"true"
    assert about(store_lab.ttl(B), LATER)


def test_an_endless_block_never_ends(store_lab: StoreLab) -> None:
    assert block(store_lab, None) is Blocked.BLOCKED
    assert store_lab.client.get(B) == b"true"
    assert store_lab.ttl(B) == -1


def test_a_shorter_block_is_a_late_one_and_changes_nothing(store_lab: StoreLab) -> None:
    block(store_lab, store_lab.now() + LATER)
    assert block(store_lab, store_lab.now() + LATER // 2) is Blocked.KEPT
    assert about(store_lab.ttl(B), LATER)


def test_a_longer_block_grows_it(store_lab: StoreLab) -> None:
    block(store_lab, store_lab.now() + LATER)
    assert block(store_lab, store_lab.now() + 2 * LATER) is Blocked.BLOCKED
    assert about(store_lab.ttl(B), 2 * LATER)


def test_an_endless_block_stays_endless(store_lab: StoreLab) -> None:
    block(store_lab, None)
    assert block(store_lab, store_lab.now() + LATER) is Blocked.KEPT
    assert block(store_lab, None) is Blocked.KEPT
    assert store_lab.ttl(B) == -1


def test_a_block_becomes_endless(store_lab: StoreLab) -> None:
    block(store_lab, store_lab.now() + LATER)
    assert block(store_lab, None) is Blocked.BLOCKED
    assert store_lab.ttl(B) == -1


def test_what_is_over_is_not_written(store_lab: StoreLab) -> None:
    assert block(store_lab, store_lab.now() - 1) is Blocked.OVER
    assert store_lab.client.exists(B) == 0


def test_what_is_over_ends_no_block_that_stands(store_lab: StoreLab) -> None:
    block(store_lab, store_lab.now() + LATER)
    assert block(store_lab, store_lab.now() - 1) is Blocked.OVER
    assert about(store_lab.ttl(B), LATER)


def test_a_slow_script_does_not_move_the_end(store_lab: StoreLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes between the script's reading of the clock and its command."""
    late = "if ms <= 0"
    mutate(monkeypatch, "_BLOCK", late, f"for _ = 1, 5e6 do end {late}")
    for ends in (store_lab.now() + LATER, store_lab.now() + 2 * LATER):  # the block is made, then lengthened
        assert block(store_lab, ends) is Blocked.BLOCKED
        assert end_of_key(store_lab.client, B) == ends


@pytest.mark.parametrize("kind", FOREIGN)
def test_another_type_means_blocked_and_is_only_given_more_time(store_lab: StoreLab, kind: str) -> None:
    put_foreign(store_lab, B, kind)
    store_lab.client.pexpire(B, LATER)
    assert block(store_lab, store_lab.now() + 2 * LATER) is Blocked.BLOCKED
    assert about(store_lab.ttl(B), 2 * LATER)
    assert block(store_lab, None) is Blocked.BLOCKED
    assert store_lab.ttl(B) == -1
    assert store_lab.client.type(B) == kind.encode()


def test_another_value_means_blocked_too(store_lab: StoreLab) -> None:
    store_lab.client.set(B, "false", px=LATER)
    assert block(store_lab, store_lab.now() + 2 * LATER) is Blocked.BLOCKED
    assert store_lab.client.get(B) == b"false"
    assert about(store_lab.ttl(B), 2 * LATER)


def test_ready_is_said_once_all_blocks_are_written(store_lab: StoreLab) -> None:
    store_lab.client.set(WARMING, "nonce")
    assert ready(store_lab) is Readiness.READY
    assert store_lab.client.get(READY) == b"true"
    assert store_lab.ttl(READY) == -1
    assert store_lab.client.exists(WARMING) == 0


def test_ready_is_not_said_after_a_flush(store_lab: StoreLab) -> None:
    store_lab.client.set(WARMING, "nonce")
    store_lab.client.flushall()
    assert ready(store_lab) is Readiness.LOST
    assert store_lab.client.exists(READY) == 0


def test_ready_is_not_said_for_a_warming_that_another_has_begun_since(store_lab: StoreLab) -> None:
    """The other pass began after a flush, so the blocks that this one wrote before are gone."""
    store_lab.client.set(WARMING, "nonce")
    store_lab.client.flushall()
    store_lab.client.set(WARMING, "another's")
    assert ready(store_lab) is Readiness.LOST
    assert store_lab.client.exists(READY) == 0
    assert store_lab.client.get(WARMING) == b"another's"
    assert ready(store_lab, "another's") is Readiness.READY
