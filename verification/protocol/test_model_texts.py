"""No cached search whose text matches survives a change: F forgets only texts that have ended, in every state."""

import pytest

from verification.protocol.explorer import search
from verification.protocol.texts import STUCK, Rules, State, Texts

RIGHT = {
    "one life": Rules(),
    "two lives, and no eviction": Rules(values=(1, 2), evicts=False),
}
# Each of these is wrong in one respect.
WRONG = {
    "a filter is used at once after an eviction": Rules(waits=False),
    "a filter that replaces another is used at once": Rules(renewal_waits=False),
    "a longer life is forgotten": Rules(values=(1, 2), evicts=False, renews=False),
    "only this slice counts": Rules(remembers=False),
    "a text is registered with the fill": Rules(registers="after"),
    "a text is registered a step before its lease": Rules(registers="before"),
    "an invalidation leaves the lease": Rules(drops_leases=False),
}


@pytest.mark.parametrize("shared", [False, True], ids=["own-block", "shared-block"])
@pytest.mark.parametrize("name", RIGHT)
def test_what_the_filter_forgets_is_over(name: str, shared: bool) -> None:  # noqa: FBT001  # pytest gives it
    found = search(Texts(RIGHT[name], shared=shared))
    assert found.problem is None, found.path
    assert found.states > 1000


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_filter_is_found_out(name: str) -> None:
    found = search(Texts(WRONG[name], shared=True))
    assert found.problem is not None
    assert found.problem.startswith(STUCK)


def test_two_lives_and_an_eviction_are_not_covered() -> None:
    """The open case of the docs: the new filter waits for its maker's life, and the value has a longer one."""
    found = search(Texts(Rules(values=(1, 2)), shared=False))
    assert found.problem is not None
    kept = found.path[-1]
    assert kept.key is not None
    assert kept.filter is not None
    assert kept.filter.since <= kept.now <= kept.key.ends


class _Asked(Texts):
    """Records whether F ever says no."""

    said_no = False

    def _may_be_there(self, state: State) -> bool:
        answer = super()._may_be_there(state)
        self.said_no = self.said_no or not answer
        return answer


def test_the_filter_says_no() -> None:
    """A filter that always says yes would pass the other tests, too."""
    space = _Asked(Rules(), shared=True)
    assert search(space).problem is None
    assert space.said_no
