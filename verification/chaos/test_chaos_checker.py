"""The checker of the fault-injection runs finds each kind of violation that it must find."""

from __future__ import annotations

import pytest

from verification.chaos.checker import Checker, Verdict
from verification.chaos.workload import BLOCKED, ENDED, Ack, Change, Kind, Read

MS = 1_000_000


def change(kind: str, key: str, number: int, state: str | int | None, at: float, event: str | None = None) -> Change:
    """Make a change that is committed a millisecond after its begin."""
    wall = (int(at), int(at) + 1)
    return Change(kind, key, number, state, int(at * MS), int((at + 1) * MS), wall, event or f"{key} {number}")


def ack(of: Change, at: float) -> Ack:
    name = of.state if isinstance(of.state, str) else None
    return Ack(int(at * MS), str(of.event), of.kind, of.key, name, of.wall[0], outbox=True)


def read(kind: str, key: str, found: object, at: float, *, lasts: float = 1, error: str | None = None) -> Read:
    return Read(kind, key, int(at * MS), int((at + lasts) * MS), found, error)


FIRST = change(Kind.USER, "u", 1, "u #1", 10)
SECOND = change(Kind.USER, "u", 2, "u #2", 20)
GONE = change(Kind.USER, "u", 3, None, 30)
NAMES = (FIRST, SECOND, GONE)
ACKS = (ack(FIRST, 15), ack(SECOND, 25), ack(GONE, 35))


def judged(changes: tuple[Change, ...], acks: tuple[Ack, ...], *reads: Read) -> Verdict:
    checker = Checker(changes, acks)
    checker.check(reads)
    return checker.verdict


def test_reads_after_the_end_of_the_writers_are_judged_and_not_counted() -> None:
    checker = Checker(NAMES, ACKS)
    stale, late = read(Kind.USER, "u", "u #1", 40), read(Kind.USER, "u", None, 50, error="DatabaseUnavailable")
    checker.check([read(Kind.USER, "u", None, 36), stale, late], 40 * MS)
    verdict = checker.verdict
    assert (verdict.checked, verdict.checked_after, verdict.errors.total()) == (1, 1, 0)
    assert [violation.kind for violation in verdict.violations] == ["stale"]


@pytest.mark.parametrize(
    ("found", "at", "kinds"),
    [
        (None, 5, []),
        ("u #1", 10, []),
        ("u #1", 9.5, []),  # the change began during the read
        ("u #1", 5, ["wrong_key"]),  # no writer had begun to write it
        (None, 16, ["stale"]),
        ("u #1", 16, []),
        ("u #1", 24, []),  # the second is committed but not acknowledged
        ("u #1", 26, ["stale"]),
        ("u #2", 26, []),
        ("u #2", 36, ["stale"]),
        (None, 36, []),
        (None, 30.5, []),  # the deletion has begun
        ("v #2", 26, ["wrong_key"]),
        ("u #7", 26, ["wrong_key"]),
    ],
)
def test_a_read_of_a_user(found: str | None, at: float, kinds: list[str]) -> None:
    verdict = judged(NAMES, ACKS, read(Kind.USER, "u", found, at))
    assert [violation.kind for violation in verdict.violations] == kinds
    assert verdict.checked == 1


def test_an_older_event_that_is_acknowledged_later_takes_nothing_back() -> None:
    acks = (ack(SECOND, 22), ack(FIRST, 40))
    verdict = judged((FIRST, SECOND), acks, read(Kind.USER, "u", "u #1", 23), read(Kind.USER, "u", "u #1", 45))
    assert verdict.count("stale") == 2


@pytest.mark.parametrize(
    ("found", "at", "kinds"),
    [
        (("s", 2), 26, []),
        (("s", 1), 26, ["stale"]),
        (None, 26, ["stale"]),
        (None, 31, []),
        (("s", 2), 31, []),
        (("s", 2), 36, ["stale"]),
        (("s", 3), 38, ["stale"]),  # that save had no effect
        (("other", 2), 26, ["wrong_key"]),
    ],
)
def test_a_read_of_a_session(found: object, at: float, kinds: list[str]) -> None:
    saves = [change(Kind.SESSION, "s", number, number, 10 * number)._replace(acknowledged=True) for number in (1, 2)]
    end = change(Kind.SESSION, "s", ENDED, None, 30)
    in_vain = change(Kind.SESSION, "s", 3, 3, 32)._replace(committed=None)
    verdict = judged((*saves, end, in_vain), (ack(end, 35),), read(Kind.SESSION, "s", found, at))
    assert [violation.kind for violation in verdict.violations] == kinds


@pytest.mark.parametrize(
    ("found", "at", "kinds"),
    [(False, 5, []), (True, 5, ["wrong_key"]), (True, 11, []), (False, 12, []), (False, 16, ["stale"]), (True, 16, [])],
)
def test_a_read_of_a_token(found: object, at: float, kinds: list[str]) -> None:
    void = change(Kind.TOKEN, "t", 1, BLOCKED, 10)
    verdict = judged((void,), (ack(void, 15),), read(Kind.TOKEN, "t", found, at))
    assert [violation.kind for violation in verdict.violations] == kinds


LAMP = change(Kind.PRODUCT, "p", 1, "Lamp p0", 10)
SOFA = change(Kind.PRODUCT, "p", 2, "Sofa p0", 20)
VASE = change(Kind.PRODUCT, "p", 3, "Vase p0", 30)


@pytest.mark.parametrize(
    ("text", "found", "at", "kinds"),
    [
        ("lamp", (("p", "Lamp p0", 1),), 16, []),
        ("lamp", (), 16, ["stale"]),
        ("lamp", (("p", "Lamp p0", 1),), 26, ["stale"]),
        ("lamp", (), 26, []),
        ("sofa", (), 26, ["stale"]),
        ("p0", (("p", "Sofa p0", 2),), 36, ["stale"]),
        ("p0", (("p", "Vase p0", 2),), 36, ["stale"]),
        ("p0", (("p", "Vase p0", 3),), 36, []),
        ("p0", (("p", "Vase p0", 2),), 26, ["wrong_key"]),  # never had this name
        ("sofa", (("p", "Lamp p0", 1),), 12, ["wrong_key"]),  # the name does not match the text
        ("p0", (("p", "Lamp p0", 1), ("q", "Lamp p1", 1)), 16, ["wrong_key"]),
    ],
)
def test_a_search(text: str, found: object, at: float, kinds: list[str]) -> None:
    acks = (ack(LAMP, 15), ack(SOFA, 25), ack(VASE, 35))
    verdict = judged((LAMP, SOFA, VASE), acks, read(Kind.SEARCH, text, found, at))
    assert [violation.kind for violation in verdict.violations] == kinds


def test_a_search_is_as_new_as_the_events_about_it() -> None:
    # The lamp became a sofa and then a vase. The event of the second change does not concern lamps.
    verdict = judged(
        (LAMP, SOFA, VASE), (ack(LAMP, 15), ack(VASE, 35)), read(Kind.SEARCH, "lamp", (("p", "Lamp p0", 1),), 40)
    )
    assert verdict.violations == []


def test_outages_are_allowed_and_other_errors_are_not() -> None:
    verdict = judged(
        NAMES,
        ACKS,
        read(Kind.USER, "u", None, 26, error="DatabaseUnavailable"),
        read(Kind.USER, "u", None, 26, error="!KeyError('u')"),
    )
    assert verdict.checked == 0
    assert verdict.errors == {"DatabaseUnavailable": 1, "!KeyError": 1}
    assert [violation.kind for violation in verdict.violations] == ["untyped"]


def lost(changes: tuple[Change, ...], acks: tuple[Ack, ...], left: tuple[str, ...] = ()) -> list[str]:
    checker = Checker(changes, acks)
    checker.check_lost(left)
    assert {violation.kind for violation in checker.verdict.violations} <= {"lost"}
    return [violation.text for violation in checker.verdict.violations]


def test_what_was_committed_and_never_applied_is_lost() -> None:
    assert lost(NAMES, ACKS) == []
    assert lost(NAMES, ACKS[:2]) == ["the outbox's event of change 3 was never applied"]
    assert lost(NAMES, (ACKS[0], ACKS[2])) == ["the outbox's event of change 2 was never applied"]
    assert lost((FIRST, SECOND, GONE._replace(committed=None)), ACKS[:2]) == []


def test_a_plain_copy_is_no_proof_that_the_outbox_delivered() -> None:
    copies = tuple(each._replace(outbox=False) for each in ACKS)
    assert len(lost(NAMES, copies)) == 3
    assert lost(NAMES, (*copies, *ACKS)) == []


def test_an_event_that_stays_in_the_outbox_has_not_arrived() -> None:
    assert lost(NAMES, ACKS, ("u 2",)) == ["the event of change 2 is still in the outbox"]


def test_the_change_stream_must_tell_of_every_change() -> None:
    told = tuple(each._replace(event=None) for each in NAMES)
    acks = tuple(replaced._replace(event=f"stream {place}") for place, replaced in enumerate(ACKS))
    assert lost(told, acks) == []
    assert lost(told, acks[1:]) == ["the change stream never reported change 1"], "although later events arrived"
    assert len(lost(told, tuple(each._replace(outbox=False) for each in acks))) == 3


def test_an_event_of_the_change_stream_is_known_by_what_it_tells() -> None:
    told = [each._replace(event=None) for each in NAMES]
    acks = tuple(each._replace(event=f"stream {place}") for place, each in enumerate(ACKS))
    verdict = judged(tuple(told), acks, read(Kind.USER, "u", "u #1", 26), read(Kind.USER, "u", "u #2", 36))
    assert verdict.count("stale") == 2


def test_the_longest_staleness_is_from_the_next_commit_to_the_begin_of_the_read() -> None:
    verdict = judged(NAMES, (ack(FIRST, 15),), read(Kind.USER, "u", "u #1", 29))
    assert verdict.staleness == pytest.approx(0.008)
