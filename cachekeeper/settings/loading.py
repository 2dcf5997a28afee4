"""Read the environment once, into one frozen object, and report all its errors together."""

import os
import re
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from cachekeeper.errors import SettingsError
from cachekeeper.metrics import log_once
from cachekeeper.settings.groups import PREFIX
from cachekeeper.settings.per_program import DoorSettings, Settings
from cachekeeper.values.argument_checks import check_given

S = TypeVar("S", bound=BaseSettings)

_NEARLY = 0.85
"""How similar two names must be (a ratio of `difflib`) for one to count as a misspelling of the other."""

_OF_KUBERNETES = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT$|_PORT_\d+_\w+$")
"""The endings of the variables that Kubernetes sets in every pod, for each service of the pod's namespace."""


def check_settings(settings: object, *wanted: type[BaseSettings], url: str) -> None:
    """Check that an argument is a settings object.

    Args:
        settings: the argument passed as `settings`.
        wanted: the accepted classes of settings.
        url: the field to name in the error, because a URL may have been passed instead of settings.

    Raises:
        TypeError: `settings` is not an instance of these classes.
    """
    cure = f"cachekeeper.load_settings({url}=…), or nothing to use the settings of the environment"
    check_given(settings, "settings", *wanted, cure=cure)


def load_settings(**overrides: object) -> Settings:
    """Read the settings from the environment of this process.

    Args:
        overrides: fields by name, used instead of the environment's.

    Raises:
        SettingsError: a variable is wrong. The message has a line for each wrong variable, with what it should be.
    """
    return load(Settings, **overrides)


def load(kind: type[S], **overrides: Any) -> S:
    """Read the settings of one class, as `load_settings` does."""
    lines = _misspelt()
    try:
        made = kind(**overrides)
    except ValidationError as error:
        lines += [
            _line(problem["loc"], problem["type"], problem["msg"]) for problem in error.errors(include_input=False)
        ]
    if lines:
        raise SettingsError("\n".join(["The settings are wrong:", *lines]))
    return made


def _misspelt() -> list[str]:
    """Return a line for each variable that looks like a misspelt setting. Log other unknown variables.

    The variables that are only logged are not errors. Variables that Kubernetes sets are only logged too, even if they
    look like a setting: in a namespace with a service called `cachekeeper-redis`, every pod has the variable
    `CACHEKEEPER_REDIS_PORT`, which is similar to `CACHEKEEPER_REDIS_URL`.
    """
    ours = [PREFIX + field.upper() for field in {**Settings.model_fields, **DoorSettings.model_fields}]
    lines = []
    for name in sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in ours):
        meant = get_close_matches(name.upper(), ours, n=1, cutoff=_NEARLY)
        if meant and not _OF_KUBERNETES.search(name.upper()):
            lines.append(f"  unknown setting {name}; did you mean {meant[0]}?")
        else:
            log_once(f"setting:{name}", "unknown setting %s: ignored; if you set it, check its spelling", name)
    return lines


def _line(location: tuple[int | str, ...], kind: str, message: str) -> str:
    message = message.removeprefix("Value error, ")
    name = PREFIX + str(location[0]).upper()
    inside = "".join(f"[{part}]" for part in location[1:] if part != "[key]")
    return f"  {name}{inside}: " + ("is not set: it has no default, so set it" if kind == "missing" else message)
