"""The environment of a test of settings: what is put there, and what is said of it."""

import pytest
from pydantic_settings import BaseSettings

from cachekeeper.errors import SettingsError
from cachekeeper.settings import PREFIX, load_settings

GOOD = {
    "REDIS_URL": "redis://cache:6379/0",
    "MONGODB_URL": "mongodb://db:27017/shop?replicaSet=rs0",
}
SECRET = "correcthorsebatterystaple"


def put(environment: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        environment.setenv(PREFIX + name, value)


def faults(environment: pytest.MonkeyPatch, **variables: str) -> dict[str, str]:
    """What is said of these variables, by their name without the prefix."""
    put(environment, **{**GOOD, **variables})
    with pytest.raises(SettingsError) as caught:
        load_settings()
    head, *lines = str(caught.value).splitlines()
    assert head == "The settings are wrong:"
    said = {}
    for line in lines:
        name, _, problem = line.strip().removeprefix("unknown setting ").replace("; did", ": did").partition(": ")
        assert name.startswith(PREFIX), line
        assert problem, line
        assert name not in said, line
        said[name.removeprefix(PREFIX)] = problem
    return said


def kinds(of: type[BaseSettings] = BaseSettings) -> set[type[BaseSettings]]:
    """Every kind of settings, those that are made of others too."""
    direct = of.__subclasses__()
    return set(direct).union(*map(kinds, direct))
