"""Settings: everything that is wrong is said at once, by the variable's name, and no password is ever shown."""

import pytest
from pydantic import ValidationError

from cachekeeper.errors import SettingsError
from cachekeeper.reading.keeper import Keeper
from cachekeeper.settings import Settings, load_settings
from cachekeeper.values.ids import IdType
from lookups import read_user
from tests.unit.settings.environment import GOOD, faults, put


def test_the_two_that_are_required_are_enough(environment: pytest.MonkeyPatch) -> None:
    put(environment, **GOOD)
    settings = load_settings()
    assert settings.redis_url == "redis://cache:6379/0"
    assert settings.security_url == settings.redis_url
    assert settings.mongodb_url == "mongodb://db:27017/shop?replicaSet=rs0"
    assert settings.broker_url is None
    assert settings.modules == ("producers", "lookups", "worker")
    assert dict(settings.id_types) == {}
    assert (settings.redis_timeout_seconds, settings.load_timeout_seconds, settings.lookup_timeout_seconds) == (
        0.5,
        2,
        5,
    )
    assert (settings.lease_seconds, settings.redelivery_seconds, settings.negative_ttl_seconds) == (10, 3600, 30)
    assert (settings.load_concurrency, settings.block_leeway_seconds, settings.text_limit_chars) == (16, 60, 64)
    assert (settings.value_limit_bytes, settings.read_concern) == (1048576, "majority")


def test_every_variable_is_read(environment: pytest.MonkeyPatch) -> None:
    put(
        environment,
        REDIS_URL="rediss://:pw@cache:6380/1",
        SECURITY_REDIS_URL="redis+cluster://safe:6379",
        MONGODB_URL="mongodb+srv://db.example.com/shop",
        BROKER_URL="amqp://guest:guest@broker:5672//",
        MODULES="lookups, my.orders ,worker",
        ID_TYPES="user_name=objectid, session = str",
        REDIS_TIMEOUT_SECONDS="0.1",
        LOAD_TIMEOUT_SECONDS="1",
        LOOKUP_TIMEOUT_SECONDS="1.5",
        LEASE_SECONDS="4",
        REDELIVERY_SECONDS="60",
        NEGATIVE_TTL_SECONDS="2",
        LOAD_CONCURRENCY="3",
        BLOCK_LEEWAY_SECONDS="0",
        TEXT_LIMIT_CHARS="10",
        VALUE_LIMIT_BYTES="100",
        READ_CONCERN="linearizable",
    )
    settings = load_settings()
    assert settings.security_url == "redis+cluster://safe:6379"
    assert settings.broker_url == "amqp://guest:guest@broker:5672//"
    assert settings.modules == ("lookups", "my.orders", "worker")
    assert dict(settings.id_types) == {"user_name": IdType.OBJECTID, "session": IdType.STR}
    assert settings.lookup_timeout_seconds == 1.5
    assert settings.marker_ms == (60 + 4 + 1.5) * 1000
    assert settings.block_leeway_seconds == 0
    assert settings.read_concern == "linearizable"


def test_settings_are_frozen() -> None:
    settings = Settings(redis_url=GOOD["REDIS_URL"], mongodb_url=GOOD["MONGODB_URL"])
    with pytest.raises(ValidationError):
        settings.load_concurrency = 5  # type: ignore[misc]  # as mypy says, too


def test_all_that_is_wrong_is_said_together(environment: pytest.MonkeyPatch) -> None:
    said = faults(
        environment,
        REDIS_URL="http://cache:6379",
        SECURITY_REDIS_URL="cache:6379",
        MONGODB_URL="mongodb://db:27017",
        BROKER_URL="kafka://broker",
        ID_TYPES="user_name=number,session=str",
        REDIS_TIMEOUT_SECONDS="fast",
        LOAD_TIMEOUT_SECONDS="-1",
        LOAD_CONCURRENCY="0",
        TEXT_LIMIT_CHARS="513",
        VALUE_LIMIT_BYTES="1.5",
        READ_CONCERN="local",
        BLOCK_LEEWAY_SECONDS="-1",
    )
    assert said.keys() == {
        "REDIS_URL",
        "SECURITY_REDIS_URL",
        "MONGODB_URL",
        "BROKER_URL",
        "ID_TYPES[user_name]",
        "REDIS_TIMEOUT_SECONDS",
        "LOAD_TIMEOUT_SECONDS",
        "LOAD_CONCURRENCY",
        "TEXT_LIMIT_CHARS",
        "VALUE_LIMIT_BYTES",
        "READ_CONCERN",
        "BLOCK_LEEWAY_SECONDS",
    }
    assert said["MONGODB_URL"] == "must name its database, as in mongodb://host:27017/shop"
    assert said["REDIS_URL"].startswith("must be a URL that begins with redis://")


def test_what_is_missing_is_said_together(environment: pytest.MonkeyPatch) -> None:
    del environment  # sets nothing
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).splitlines() == [
        "The settings are wrong:",
        "  CACHEKEEPER_REDIS_URL: is not set: it has no default, so set it",
        "  CACHEKEEPER_MONGODB_URL: is not set: it has no default, so set it",
    ]


def test_what_does_not_fit_together_is_said_beside_the_rest(environment: pytest.MonkeyPatch) -> None:
    said = faults(
        environment,
        MONGODB_URL="mongodb://db",
        REDIS_TIMEOUT_SECONDS="1",
        LOAD_TIMEOUT_SECONDS="2",
        LOOKUP_TIMEOUT_SECONDS="4",
        LEASE_SECONDS="4",
    )
    assert said.keys() == {"MONGODB_URL", "LOOKUP_TIMEOUT_SECONDS", "LEASE_SECONDS"}
    least = "more than CACHEKEEPER_LOAD_TIMEOUT_SECONDS + 2 * CACHEKEEPER_REDIS_TIMEOUT_SECONDS, which is 4"
    assert least in said["LOOKUP_TIMEOUT_SECONDS"]
    assert least in said["LEASE_SECONDS"]


def test_a_default_that_no_longer_fits_is_said_too(environment: pytest.MonkeyPatch) -> None:
    assert faults(environment, LOAD_TIMEOUT_SECONDS="20").keys() == {"LOOKUP_TIMEOUT_SECONDS", "LEASE_SECONDS"}


# --- secrets --------------------------------------------------------------------------------------------------------
# --- through the door -----------------------------------------------------------------------------------------------


def test_a_lookup_without_settings_names_them(environment: pytest.MonkeyPatch) -> None:
    del environment
    with pytest.raises(SettingsError, match="CACHEKEEPER_REDIS_URL: is not set"):
        read_user(42, keeper=Keeper())


def test_a_keeper_reads_the_environment_at_first_use_and_once(environment: pytest.MonkeyPatch) -> None:
    keeper = Keeper()
    put(environment, **GOOD)
    assert keeper.settings.load_concurrency == 16
    put(environment, LOAD_CONCURRENCY="3")
    assert keeper.settings.load_concurrency == 16


# --- variables that are none ----------------------------------------------------------------------------------------
