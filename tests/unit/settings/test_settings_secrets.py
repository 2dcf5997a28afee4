"""Settings: no password is ever shown."""

import traceback

import pytest

from cachekeeper.errors import SettingsError
from cachekeeper.reading.keeper import Keeper
from cachekeeper.settings import load_settings
from tests.unit.settings.environment import GOOD, SECRET, put


@pytest.mark.parametrize(
    "variables",
    [
        {"REDIS_URL": f"http://:{SECRET}@cache"},
        {"SECURITY_REDIS_URL": f"redis//:{SECRET}@cache"},
        {"REDIS_URL": f"redis://:{SECRET}@cache:port"},
        {"REDIS_URL": f"redis://cache?foo={SECRET}"},
        {"REDIS_URL": f"redis://:{SECRET}?foo=bar@cache"},
        {"REDIS_URL": f"redis://:pass?{SECRET}=bar@cache"},
        {"REDIS_URL": f"redis://:pass#{SECRET}@cache"},
        {"MONGODB_URL": f"mongodb://user:pass#{SECRET}@db/shop"},
        {"MONGODB_URL": f"mongodb://user:{SECRET}/word@db/shop"},
        {"BROKER_URL": f"amqp://user:pass#{SECRET}@broker//"},
        {"BROKER_URL": f"amqp://user:pass?{SECRET}=1@broker//"},
        {"BROKER_URL": f"amqp://broker?foo={SECRET}"},
        {"BROKER_URL": f"rediss://broker?ssl_ca_certs=/{SECRET}"},
        {"REDIS_URL": f"redis://cache/{SECRET}"},
        {"BROKER_URL": f"redis://cache/{SECRET}"},
        {"MONGODB_URL": f"mongodb://db/shop?tls=true&tlsCAFile=/{SECRET}"},
        {"MONGODB_URL": f"mongodb://user:{SECRET}@db"},
        {"MONGODB_URL": f"mongodb://user:{SECRET}@@db/shop"},
        {"BROKER_URL": f"{SECRET}://broker"},
        {"LOAD_CONCURRENCY": SECRET},
        {"READ_CONCERN": SECRET},
        {"ID_TYPES": SECRET},
        {"ID_TYPES": f"user_name={SECRET}"},
    ],
)
def test_no_value_is_ever_in_the_message(environment: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    put(environment, **{**GOOD, **variables})
    with pytest.raises(SettingsError) as caught:
        load_settings()
    # As a log would show it, with causes and contexts.
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_no_url_is_in_the_repr(environment: pytest.MonkeyPatch) -> None:
    put(
        environment,
        REDIS_URL=f"redis://:{SECRET}@cache",
        SECURITY_REDIS_URL=f"redis://:{SECRET}@safe",
        MONGODB_URL=f"mongodb://user:{SECRET}@db/shop",
        BROKER_URL=f"amqp://user:{SECRET}@broker//",
    )
    settings = load_settings()
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)
    assert SECRET not in repr(Keeper(settings))
    assert "load_concurrency=16" in repr(settings)
