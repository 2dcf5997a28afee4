"""`make losses`: a missing key does not prove that its change arrived."""

from __future__ import annotations

import pytest

from verification.losses.changes import event_of, is_deletion, is_product, number_in, silent

USER, DELETED, PRODUCT = 0, 5, 9


def test_each_kind_of_change_is_there() -> None:
    assert (is_product(PRODUCT), is_deletion(DELETED)) == (True, True)
    assert not is_product(USER)
    assert not is_deletion(USER)


@pytest.mark.parametrize("number", [USER, DELETED, PRODUCT])
def test_an_event_tells_which_change_it_is_of(number: int) -> None:
    assert number_in(event_of(number).to_wire()) == number


@pytest.mark.parametrize("body", ["text", {"id": "e1", "type": "collection.changed", "collection": "users"}, {}])
def test_other_events_are_of_no_change(body: object) -> None:
    assert number_in(body) is None


def test_a_key_may_go_only_by_an_event_and_only_where_the_event_takes_it() -> None:
    gone = dict.fromkeys((USER, DELETED, PRODUCT))
    assert silent(gone, done=set()) == {USER, DELETED, PRODUCT}  # removed by a dropped view, a flush or its TTL
    assert silent(gone, done={USER, DELETED, PRODUCT}) == {USER}  # its event overwrites the key


def test_a_key_that_is_there_is_for_the_audit() -> None:
    assert silent({USER: b"old 0", PRODUCT: b"[]"}, done=set()) == set()
