"""Settings: a variable that is none, but nearly the name of one, is an error too."""

import pytest
from pydantic_settings import BaseSettings

from cachekeeper import metrics
from cachekeeper.errors import SettingsError
from cachekeeper.settings import PREFIX, load_settings, loading
from tests.unit.settings.environment import GOOD, SECRET, faults, kinds, put


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LEASE_SECOND", "LEASE_SECONDS"),
        ("MONGO_URL", "MONGODB_URL"),
        ("LOAD_CONCURENCY", "LOAD_CONCURRENCY"),
        ("HTTP_API_KEY", "HTTP_API_KEYS"),
        ("READCONCERN", "READ_CONCERN"),
        ("BROKER_URI", "BROKER_URL"),
    ],
)
def test_a_misspelt_variable_is_told_with_the_one_that_was_meant(
    environment: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    assert faults(environment, **{name: SECRET}) == {name: f"did you mean {PREFIX}{meant}?"}


def test_it_is_told_together_with_the_one_that_is_missing_for_it(environment: pytest.MonkeyPatch) -> None:
    put(environment, REDIS_URL=GOOD["REDIS_URL"], MONGODB_URI=GOOD["MONGODB_URL"])
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).splitlines()[1:] == [
        "  unknown setting CACHEKEEPER_MONGODB_URI; did you mean CACHEKEEPER_MONGODB_URL?",
        "  CACHEKEEPER_MONGODB_URL: is not set: it has no default, so set it",
    ]


@pytest.mark.parametrize("kind", sorted(kinds(), key=str))
def test_what_one_program_needs_another_may_be_told(environment: pytest.MonkeyPatch, kind: type[BaseSettings]) -> None:
    """One environment for all programs: `cachekeeper relay` is not disturbed by the keys of the HTTP door."""
    for name in kind.model_fields:
        put(environment, **{name.upper(): "anything"})
    assert loading._misspelt() == []


def test_what_is_like_no_setting_is_logged_once_and_harms_nobody(
    environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Kubernetes gives such variables to every pod, where a service has our name."""
    environment.setattr(metrics, "_said", set())
    names = ("DOOR_SERVICE_HOST", "DOOR_PORT_8080_TCP_PROTO", "DOOR_PORT")
    put(environment, **GOOD, **dict.fromkeys(names, SECRET))
    for _ in range(2):
        load_settings()
    said = sorted(record.getMessage() for record in caplog.records)
    assert said == [
        f"unknown setting {PREFIX}{name}: ignored; if you set it, check its spelling" for name in sorted(names)
    ]


@pytest.mark.parametrize("role", ["redis", "security-redis", "mongodb", "broker", "redis-url", "mongodb-url"])
def test_what_kubernetes_sets_for_a_service_stops_nobody(
    environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, role: str
) -> None:
    """A service `cachekeeper-redis` gives every pod of its namespace variables that are nearly `…_REDIS_URL`."""
    environment.setattr(metrics, "_said", set())
    service = role.upper().replace("-", "_")
    put(
        environment,
        **GOOD,
        **{
            f"{service}_SERVICE_HOST": "10.0.0.1",
            f"{service}_SERVICE_PORT": "6379",
            f"{service}_SERVICE_PORT_MAIN": "6379",
            f"{service}_PORT": "tcp://10.0.0.1:6379",
            f"{service}_PORT_6379_TCP": "tcp://10.0.0.1:6379",
            f"{service}_PORT_6379_TCP_PROTO": "tcp",
            f"{service}_PORT_6379_TCP_PORT": "6379",
            f"{service}_PORT_6379_TCP_ADDR": "10.0.0.1",
        },
    )
    load_settings()
    assert len(caplog.records) == 8
