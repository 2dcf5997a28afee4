"""Token blocks only grow, and *ready* is only said when nothing was lost meanwhile; on every server."""

import pytest

from cachekeeper.protocol import scripts
from cachekeeper.protocol.outcomes import Blocked, Readiness
from testkit.mutating import mutate
from testkit.tokens import end_of_key
from verification.protocol.store_lab import FOREIGN, LATER, Lab, about, lab, put_foreign

__all__ = ["lab"]

B = "blocked:jti-1"
WARMING = "cachekeeper:blocked-warming"
READY = "cachekeeper:blocked-ready"


def block(lab: Lab, ends_ms: int | None) -> object:
    return lab.run(scripts.block(B, ends_ms))


def ready(lab: Lab, nonce: str = "nonce") -> object:
    return lab.run(scripts.declare_ready(WARMING, READY, nonce))


def test_a_block_is_the_word_true_until_it_ends(lab: Lab) -> None:
    assert block(lab, lab.now() + LATER) is Blocked.BLOCKED
    assert lab.client.get(B) == b"true"
    assert about(lab.ttl(B), LATER)


def test_an_endless_block_never_ends(lab: Lab) -> None:
    assert block(lab, None) is Blocked.BLOCKED
    assert lab.client.get(B) == b"true"
    assert lab.ttl(B) == -1


def test_a_shorter_block_is_a_late_one_and_changes_nothing(lab: Lab) -> None:
    block(lab, lab.now() + LATER)
    assert block(lab, lab.now() + LATER // 2) is Blocked.KEPT
    assert about(lab.ttl(B), LATER)


def test_a_longer_block_grows_it(lab: Lab) -> None:
    block(lab, lab.now() + LATER)
    assert block(lab, lab.now() + 2 * LATER) is Blocked.BLOCKED
    assert about(lab.ttl(B), 2 * LATER)


def test_an_endless_block_stays_endless(lab: Lab) -> None:
    block(lab, None)
    assert block(lab, lab.now() + LATER) is Blocked.KEPT
    assert block(lab, None) is Blocked.KEPT
    assert lab.ttl(B) == -1


def test_a_block_becomes_endless(lab: Lab) -> None:
    block(lab, lab.now() + LATER)
    assert block(lab, None) is Blocked.BLOCKED
    assert lab.ttl(B) == -1


def test_what_is_over_is_not_written(lab: Lab) -> None:
    assert block(lab, lab.now() - 1) is Blocked.OVER
    assert lab.client.exists(B) == 0


def test_what_is_over_ends_no_block_that_stands(lab: Lab) -> None:
    block(lab, lab.now() + LATER)
    assert block(lab, lab.now() - 1) is Blocked.OVER
    assert about(lab.ttl(B), LATER)


def test_a_slow_script_does_not_move_the_end(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes between the script's look at the clock and its command."""
    late = "if ms <= 0"
    mutate(monkeypatch, "_BLOCK", late, f"for _ = 1, 5e6 do end {late}")
    for ends in (lab.now() + LATER, lab.now() + 2 * LATER):  # made, and given more time
        assert block(lab, ends) is Blocked.BLOCKED
        assert end_of_key(lab.client, B) == ends


@pytest.mark.parametrize("kind", FOREIGN)
def test_another_type_means_blocked_and_is_only_given_more_time(lab: Lab, kind: str) -> None:
    put_foreign(lab, B, kind)
    lab.client.pexpire(B, LATER)
    assert block(lab, lab.now() + 2 * LATER) is Blocked.BLOCKED
    assert about(lab.ttl(B), 2 * LATER)
    assert block(lab, None) is Blocked.BLOCKED
    assert lab.ttl(B) == -1
    assert lab.client.type(B) == kind.encode()


def test_another_value_means_blocked_too(lab: Lab) -> None:
    lab.client.set(B, "false", px=LATER)
    assert block(lab, lab.now() + 2 * LATER) is Blocked.BLOCKED
    assert lab.client.get(B) == b"false"
    assert about(lab.ttl(B), 2 * LATER)


def test_ready_is_said_once_all_blocks_are_written(lab: Lab) -> None:
    lab.client.set(WARMING, "nonce")
    assert ready(lab) is Readiness.READY
    assert lab.client.get(READY) == b"true"
    assert lab.ttl(READY) == -1
    assert lab.client.exists(WARMING) == 0


def test_ready_is_not_said_after_a_flush(lab: Lab) -> None:
    lab.client.set(WARMING, "nonce")
    lab.client.flushall()
    assert ready(lab) is Readiness.LOST
    assert lab.client.exists(READY) == 0


def test_ready_is_not_said_for_a_warming_that_another_has_begun_since(lab: Lab) -> None:
    """The other began after a flush: what this one wrote before it is gone."""
    lab.client.set(WARMING, "nonce")
    lab.client.flushall()
    lab.client.set(WARMING, "another's")
    assert ready(lab) is Readiness.LOST
    assert lab.client.exists(READY) == 0
    assert lab.client.get(WARMING) == b"another's"
    assert ready(lab, "another's") is Readiness.READY
