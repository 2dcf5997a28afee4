"""Scripts that are wrong in one respect. The replay of the model, or a test of the contract, fails with each."""

import copy
import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cachekeeper.devservers import RedisServer
from cachekeeper.errors import CacheUnavailable
from cachekeeper.protocol import scripts
from verification.protocol import test_store_blocks as blocks
from verification.protocol import test_store_contract as contract
from verification.protocol import test_store_deadlines as deadlines
from verification.protocol import test_store_within as within
from verification.protocol.cases import Case, cases_of
from verification.protocol.cells import Acquire, Change, Expire, Fill, FillAbsent, Invalidate, ReadUntil, Release
from verification.protocol.explorer import Found, search
from verification.protocol.families import family_of, space
from verification.protocol.replay import replay
from verification.protocol.running import DESIGN
from verification.protocol.store_lab import StoreLab
from verification.protocol.writes import RIGHT

Check = Callable[[StoreLab], None]


@functools.cache
def some_cases() -> frozenset[Case]:
    """Return the cases of a few histories of each kind. test_model_search.py replays all with the correct scripts."""
    cases: set[Case] = set()
    for name, wanted in (
        ("writes", {"UND", "SNU", "DUU"}),
        ("endings", {"UTX", "TUP"}),
        ("told", {"tNP", "UtP"}),
        ("shared", {"UTP"}),
        ("lagging", {"U"}),
    ):
        family = family_of(name)
        for happens in family.histories(RIGHT):
            if happens.name in wanted:
                searched = space(family, DESIGN, happens, fine=False)
                found: Found[Any] = search(searched)
                assert found.problem is None
                cases |= cases_of(searched.moves.steps)
    return frozenset(cases)


def the_replay(lab: StoreLab, name: str) -> None:
    """Replay the steps that run one script."""
    scripts = {
        Acquire: "acquire",
        Change: "change",
        Expire: "expire",
        Fill: "fill",
        FillAbsent: "fill",
        Invalidate: "invalidate",
        ReadUntil: "read_until",
        Release: "release",
    }
    assert replay(lab.store, [case for case in some_cases() if scripts[type(case.step)] == name]) == []


@pytest.fixture
def default_lab(redis_server: RedisServer) -> Iterator[StoreLab]:
    some_cases()  # called here, so that an error in it does not count as a mutant that was noticed
    with redis_server.client() as client:
        yield StoreLab(client)


@pytest.mark.parametrize("name", ["acquire", "change", "expire", "fill", "invalidate", "read_until", "release"])
def test_the_right_scripts_pass(name: str, default_lab: StoreLab) -> None:
    the_replay(default_lab, name)


contract_damage: Check = functools.partial(contract.test_another_type_at_the_key_is_damage, kind="list")
deadlines_damage: Check = functools.partial(deadlines.test_another_type_is_damage_and_is_left, kind="list")
blocks_foreign: Check = functools.partial(
    blocks.test_another_type_means_blocked_and_is_only_given_more_time, kind="list"
)
within_braces: Check = functools.partial(within.test_braces_and_percent_signs, name="a{b}c", believed=True)
within_percent: Check = functools.partial(within.test_braces_and_percent_signs, name="100%7Bx", believed=True)
within_beyond: Check = functools.partial(within.test_characters_of_one_to_four_bytes, name="a😀b", believed=False)


def within_name(check: Callable[..., None]) -> Check:
    """Run the check with a filter that is used, as in most invalidations."""
    return functools.partial(check, believed=True)


# The script (the prelude is part of each), the code to replace, its replacement, and the test that must notice it: the
# replay if no other test is named.
MUTANTS: list[tuple[str, str, str, Check | None]] = [
    ("acquire", "if kind == 'string'", "if false", None),
    ("acquire", "if kind ~= 'none' then return {'damaged'} end", "", contract_damage),
    ("acquire", "if m[3] and not refresh and", "if false and", None),
    ("acquire", "tonumber(m[3]) > now", "true", None),
    ("acquire", "if m[1] and m[1] ~= ARGV[1] and tonumber(m[2]) > now", "if false", None),
    ("acquire", "m[1] ~= ARGV[1] and tonumber(m[2]) > now", "m[1] ~= ARGV[1]", None),
    (
        "acquire",
        "if m[1] and m[1] ~= ARGV[1]",
        "if m[1]",
        contract.test_an_acquire_that_is_asked_twice_is_granted_twice,
    ),
    (
        "acquire",
        "ends = math.min(ends",
        "ends = math.max(ends",
        deadlines.test_a_lease_taken_under_a_deadline_ends_with_it,
    ),
    ("acquire", "if m[4] and tonumber(m[4]) > now", "if m[4]", None),
    ("acquire", "keep(KEYS[2], tonumber(ARGV[2]))", "", None),
    ("acquire", "local refresh = ARGV[3] == '1'", "local refresh = false", None),
    ("acquire", "local refresh = ARGV[3] == '1'", "local refresh = true", None),
    ("fill", "if m[1] ~= ARGV[1] then return {'lost'} end", "", None),
    ("fill", "if m[1] ~= ARGV[1] then", "if m[1] and m[1] ~= ARGV[1] then", None),
    ("fill", "if ARGV[8] == '1' and", "if false and", None),
    ("fill", "if ARGV[8] == '1' and", "if", None),
    ("fill", "tonumber(ARGV[4]) < tonumber(m[2])", "tonumber(ARGV[4]) <= tonumber(m[2])", None),
    (
        "fill",
        "tonumber(ARGV[4]) < tonumber(m[2])",
        "ARGV[4] < m[2]",
        contract.test_a_fills_version_is_compared_as_a_number,
    ),
    ("fill", "if kind == 'versioned' and m[2] and", "if false and", None),
    ("fill", "'HDEL', KEYS[2], 'l', 'lx', 'ax'", "'HDEL', KEYS[2], 'l', 'lx'", contract.test_a_fill_ends_known_absence),
    ("fill", "'HDEL', KEYS[2], 'l', 'lx', 'ax'", "'HDEL', KEYS[2], 'ax'", None),
    ("fill", "redis.call('HDEL', KEYS[2], 'v')", "", None),
    ("fill", "redis.call('HSET', KEYS[2], 'v', ARGV[4])", "", None),
    (
        "fill",
        "redis.call('DEL', KEYS[1])\n  redis.call('HDEL'",
        "redis.call('SET', KEYS[1], '')\n  redis.call('HDEL'",
        None,
    ),
    ("fill", "redis.call('DEL', KEYS[1])\n  redis.call('HDEL'", "redis.call('HDEL'", None),
    ("fill", "redis.call('DEL', KEYS[1])\n  return {'ended'}", "return {'ended'}", None),
    ("fill", "room(ARGV[5], m[3], ARGV[7])", "room(ARGV[5], nil, ARGV[7])", None),
    ("fill", "room(ARGV[5], m[3], ARGV[7])", "room(ARGV[5], m[3], '')", None),
    ("fill", "keep(KEYS[2], tonumber(ARGV[5]))", "", contract.test_metadata_outlives_the_absent_flag),
    ("fill", "keep(KEYS[2], math.max(left, tonumber(ARGV[6])))", "", None),
    (
        "fill",
        "math.max(left, tonumber(ARGV[6]))",
        "tonumber(ARGV[6])",
        contract.test_metadata_outlives_a_value_that_lives_longer_than_a_marker,
    ),
    ("fill", "redis.call('HDEL', KEYS[2], 'l', 'lx')\n  return {'lost'}", "return {'lost'}", None),
    ("release", "if redis.call('HGET', KEYS[1], 'l') ~= ARGV[1] then return {'lost'} end", "", None),
    ("release", "'l', 'lx'", "'l'", None),
    ("change", ">= tonumber(ARGV[1])", "> tonumber(ARGV[1])", None),
    (
        "change",
        "tonumber(m[1]) >= tonumber(ARGV[1])",
        "m[1] >= ARGV[1]",
        contract.test_versions_are_compared_as_numbers,
    ),
    ("change", "if m[1] and tonumber", "if false and tonumber", None),
    ("change", "'HDEL', KEYS[2], 'l', 'lx', 'ax'", "'HDEL', KEYS[2], 'ax'", None),
    ("change", "'HDEL', KEYS[2], 'l', 'lx', 'ax'", "'HDEL', KEYS[2], 'l', 'lx'", None),
    ("change", "left > 0 and m[1] and", "left > 0 and", None),
    ("change", "and redis.call('EXISTS', KEYS[1]) == 1", "", None),
    ("change", "if left > 0 and m[1]", "if m[1]", None),
    ("change", "redis.call('DEL', KEYS[1])", "", None),
    ("change", "redis.call('HSET', KEYS[2], 'v', ARGV[1])", "", None),
    ("change", "room(ARGV[3], m[2], ARGV[5])", "room(ARGV[3], nil, ARGV[5])", None),
    ("change", "room(ARGV[3], m[2], ARGV[5])", "room(ARGV[3], m[2], '')", None),
    ("change", "keep(KEYS[2], math.max(left, tonumber(ARGV[4])))", "", None),
    (
        "change",
        "math.max(left, tonumber(ARGV[4]))",
        "tonumber(ARGV[4])",
        contract.test_metadata_outlives_what_a_change_wrote,
    ),
    ("change", "math.max(left, tonumber(ARGV[4]))", "left", contract.test_a_marker_outlives_a_short_ttl),
    ("invalidate", "redis.call('DEL', KEYS[1])", "", None),
    ("invalidate", "redis.call('DEL', KEYS[2])", "", None),
    ("invalidate", "if redis.call('HEXISTS', KEYS[2], 'd') == 1", "if false", None),
    ("invalidate", "'v', 'l', 'lx', 'ax'", "'l', 'lx', 'ax'", None),
    ("invalidate", "'v', 'l', 'lx', 'ax'", "'v', 'ax'", None),
    ("expire", "if before and tonumber(before) <= at", "if false", None),
    ("expire", "tonumber(before) <= at then", "tonumber(before) >= at then", None),
    ("expire", "redis.call('HDEL', KEYS[2], 'l', 'lx')", "", None),
    ("expire", "redis.call('DEL', KEYS[1])", "", None),
    ("expire", "redis.call('PEXPIREAT', KEYS[1], digits(at))", "", None),
    ("expire", "left > at - now", "left > 0", deadlines.test_a_deadline_ahead_does_not_lengthen_a_life),
    ("expire", "if left == -1 or", "if", deadlines.test_a_value_without_end_is_given_one),
    ("expire", "keep(KEYS[2], math.max(at - now, 0) + ARGV[2])", "", None),
    (
        "expire",
        "math.max(at - now, 0) + ARGV[2]",
        "math.max(at - now, 0)",
        deadlines.test_a_deadline_is_remembered_beyond_itself,
    ),
    (
        "expire",
        "math.max(at - now, 0) + ARGV[2]",
        "at - now + ARGV[2]",
        deadlines.test_an_end_is_remembered_as_long_as_asked,
    ),
    ("read_until", "if d and tonumber(d) <= clock()", "if false", None),
    ("read_until", "tonumber(d) <= clock()", "true", None),
    ("read_until", "redis.call('DEL', KEYS[1])", "", deadlines.test_a_late_foreign_set_does_not_raise_what_has_ended),
    ("read_until", "if kind ~= 'string' then return {'damaged'} end", "", deadlines_damage),
    ("block", "if left == -1 then return {'kept'} end", "", blocks.test_an_endless_block_stays_endless),
    ("block", "if ms <= 0 then return {'over'} end", "", blocks.test_what_is_over_is_not_written),
    (
        "block",
        "if left >= ms then return {'kept'} end",
        "",
        blocks.test_a_shorter_block_is_a_late_one_and_changes_nothing,
    ),
    ("block", "else redis.call('PERSIST', KEYS[1]) end", "end", blocks.test_a_block_becomes_endless),
    ("block", "else redis.call('PEXPIREAT', KEYS[1], ARGV[1]) end", "end", blocks.test_a_longer_block_grows_it),
    (
        "block",
        "if left == -2 then redis.call('SET', KEYS[1], 'true', 'PXAT', ARGV[1]) else",
        "if true then redis.call('SET', KEYS[1], 'true', 'PXAT', ARGV[1]) else",
        blocks_foreign,
    ),
    (
        "ready",
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'lost'} end",
        "",
        blocks.test_ready_is_not_said_after_a_flush,
    ),
    (
        "ready",
        "if redis.call('GET', KEYS[1]) ~= ARGV[1]",
        "if not redis.call('GET', KEYS[1])",
        blocks.test_ready_is_not_said_for_a_warming_that_another_has_begun_since,
    ),
    ("ready", "redis.call('DEL', KEYS[1])", "", blocks.test_ready_is_said_once_all_blocks_are_written),
    (
        "invalidate_within",
        "batch[#batch + 1] = '{' .. key .. '}:meta'",
        "",
        within_name(within.test_a_fill_under_way_does_not_land),
    ),
    ("invalidate_within", ".. escaped(text) ..", ".. text ..", within_braces),
    ("invalidate_within", "['}'] = '%7D'", "['}'] = '}'", within_braces),
    ("invalidate_within", "return '%25' .. code", "return '%' .. code", within_percent),
    (
        "invalidate_within",
        "first + limit - 1, total",
        "first + limit, total",
        within_name(within.test_texts_of_exactly_the_limit_go_longer_ones_are_never_cached),
    ),
    (
        "invalidate_within",
        "first + limit - 1, total",
        "first + limit - 2, total",
        within_name(within.test_texts_of_exactly_the_limit_go_longer_ones_are_never_cached),
    ),
    (
        "invalidate_within",
        "lead < 0x80 and 1 or lead < 0xE0 and 2 or lead < 0xF0 and 3 or 4",
        "1",
        within_name(within.test_a_limit_counts_characters_not_bytes),
    ),
    ("invalidate_within", "lead < 0xF0 and 3 or 4", "3", within_beyond),
    (
        "invalidate_within",
        "if #batch >= ",
        "if false and #batch >= ",
        within_name(within.test_more_keys_than_one_command_may_hold),
    ),
    ("invalidate_within", "unlink()\nreturn", "return", within_name(within.test_what_occurs_goes_and_nothing_else)),
    ("invalidate_within", ".. suffix", "", within_name(within.test_what_occurs_goes_and_nothing_else)),
    (
        "invalidate_within",
        "for argument = 4, #ARGV, 2 do",
        "for argument = 4, 4 do",
        within_name(within.test_the_old_and_the_new_name_in_one_call),
    ),
    (
        "fill",
        "if redis.call('PTTL', meta) < ms then\n    redis.call('PEXPIRE', meta, digits(ms))\n  end",
        "redis.call('PEXPIRE', meta, digits(ms))",
        contract.test_metadata_is_never_given_a_shorter_life,
    ),
    ("fill", "if deadline then left = math.min(left,", "if deadline then left = math.max(left,", None),
    ("fill", "if ends ~= '' then left = math.min(left,", "if ends ~= '' then left = math.max(left,", None),
]


def put_in(name: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every step of that name run the script with `new` in place of `old`."""
    script = copy.copy(getattr(scripts, f"_{name.upper()}"))
    assert script.source.count(old) == 1, f"{name}.lua: {old!r} occurs {script.source.count(old)} times, not once"
    script.source = script.source.replace(old, new)
    script.sha = hashlib.sha1(script.source.encode(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(scripts, f"_{name.upper()}", script)


@pytest.mark.parametrize(
    ("name", "old", "new", "check"), MUTANTS, ids=lambda part: part if isinstance(part, str) else ""
)
def test_a_wrong_script_is_noticed(
    name: str, old: str, new: str, check: Check | None, default_lab: StoreLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in(name, old, new, monkeypatch)
    run = check or functools.partial(the_replay, name=name)
    with pytest.raises((AssertionError, CacheUnavailable)) as caught:
        run(default_lab)
    assert "ompiling" not in str(caught.value.__cause__), "the wrong script is not valid Lua"
