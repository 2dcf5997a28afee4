"""`cachekeeper dev`: how it ends, and that nothing of it is left, however it ends."""

import signal

import pytest
import redis

from cachekeeper.devservers import FoundServer
from testkit.leftovers import ProgramDirectory, running, script
from testkit.waiting import wait_until
from tests.integration.devservers.dev_programs import (
    DEV,
    HEARING,
    READY,
    SIGNALS,
    ask,
    fake_mongod,
    parent_of,
    process_of,
    variables,
)

pytestmark = pytest.mark.usefixtures("redis_found", "mongo_found")


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_it_ends_well_on_a_signal(place: ProgramDirectory, number: signal.Signals) -> None:
    with running(place, [*script(HEARING), *DEV]) as dev:
        dev.wait_for(READY).send(number)
        assert dev.end() == 0
        assert place.left() == [], "it has waited for its own end"


def test_it_ends_on_ctrl_c_where_a_shell_has_had_that_ignored(place: ProgramDirectory) -> None:
    with running(place, ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *DEV]) as dev:
        dev.wait_for(READY).send(signal.SIGINT)
        assert dev.end() == 0
    place.assert_empty()


@pytest.mark.parametrize("stage", ["", "cache: ", "security and broker: "], ids=["first", "second", "third"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_nothing_is_left_of_a_start_that_was_cut_short(
    place: ProgramDirectory, mongo_found: FoundServer, stage: str, number: signal.Signals
) -> None:
    # A real mongod that answers nobody without its key: however late the signal comes, the start is under way.
    key = place.path / "key"
    key.write_text("nobodyknows")
    key.chmod(0o600)
    mongod = fake_mongod(place, f'exec "{mongo_found.path}" "$@" --keyFile "{key}"')
    with running(place, [*DEV, "--mongod", str(mongod)]) as dev:
        if stage:
            dev.wait_for(stage)
        else:
            wait_until(lambda: any(place.path.glob("cachekeeper-*")), "the start has begun")
        dev.send(number)
        assert dev.end() == (0 if number == signal.SIGINT else -number)
        assert "export" not in dev.output
        place.assert_empty()


def test_nothing_is_left_of_a_second_ctrl_c(place: ProgramDirectory) -> None:
    kept = place.path / "kept"
    with running(place, [*DEV, "--data", str(kept)]) as dev:
        found = variables(dev.wait_for(READY).output)
        for name in ("CACHEKEEPER_REDIS_URL", "CACHEKEEPER_SECURITY_REDIS_URL"):
            with redis.Redis.from_url(found[name], socket_timeout=20) as client:
                client.config_set("save", "3600 1")
        # Redis does not end on SIGTERM while it cannot save: an orderly end would wait for it.
        (kept / "security" / "dump.rdb").mkdir()
        (log,) = place.path.glob("cachekeeper-*/security.log")
        dev.send(signal.SIGINT)
        wait_until(lambda: "can't exit" in log.read_text(), "the end is waiting for the security server")
        dev.send(signal.SIGTERM)
        assert dev.end() == 0
        assert not (kept / "cache" / "dump.rdb").exists(), "the next in order was still asked to end, and saved"
        place.assert_empty()


def test_nothing_is_left_after_sigkill(place: ProgramDirectory) -> None:
    with running(place, DEV) as dev:
        dev.wait_for(READY)
        wait_until(lambda: len(place.processes()) == 5, "itself, its guardian, two Redis, one MongoDB")
        dev.send(signal.SIGKILL)
        assert dev.end() == -signal.SIGKILL
        place.assert_empty()


def test_nothing_is_left_of_stopped_servers(place: ProgramDirectory) -> None:
    with running(place, DEV) as dev:
        dev.wait_for(READY)
        for name in ("redis", "mongod"):
            process_of(dev, name).suspend()
        dev.send(signal.SIGKILL)
        dev.end()
        place.assert_empty()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_it_ends_with_its_parent_if_told_to(place: ProgramDirectory, number: signal.Signals) -> None:
    with running(place, parent_of([*DEV, "--with-parent"])) as parent:
        parent.wait_for(READY).send(number)
        parent.end()
        place.assert_empty()


def test_it_outlives_its_parent_if_not_told_otherwise(place: ProgramDirectory) -> None:
    with running(place, parent_of(DEV)) as parent:
        parent.wait_for(READY).send(signal.SIGKILL)
        parent.end()
        # It would take 0.2 s to notice. Anything that asks it for its variables after that shows that it did not end.
        with pytest.raises(AssertionError):
            wait_until(lambda: not place.left(), "the stack is gone", 1.5)
        assert ask(place).returncode == 0


@pytest.mark.parametrize("victim", ["mongod", "redis"])
def test_the_death_of_a_server_ends_it_all(place: ProgramDirectory, victim: str) -> None:
    with running(place, DEV) as dev:
        dev.wait_for(READY)
        process_of(dev, victim).kill()
        assert dev.end() == 1
        assert "was killed by SIGKILL unexpectedly. The last lines of its log:" in dev.errors
        assert {"mongod": "mongodb was", "redis": "cache was"}[victim] in dev.errors
        assert place.left() == []


def test_the_death_of_the_guardian_ends_it_all(place: ProgramDirectory) -> None:
    with running(place, DEV) as dev:
        dev.wait_for(READY)
        (guardian,) = place.guardians()
        guardian.kill()
        assert dev.end() == 1
        assert "the guardian process is gone" in dev.errors
        assert place.left() == [], "it did the guardian's work itself"
