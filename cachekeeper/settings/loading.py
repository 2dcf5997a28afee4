"""Reading the environment once, into one frozen object, and saying everything that is wrong at once."""

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
"""How much of two names must be alike, by `difflib`, for one to be taken for the other misspelt."""

_OF_KUBERNETES = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT$|_PORT_\d+_\w+$")
"""How the variables end that Kubernetes sets in every pod for each service of its namespace."""


def check_settings(settings: object, *wanted: type[BaseSettings], url: str) -> None:
    """Refuse what are no settings.

    Args:
        settings: what was given as `settings`.
        wanted: kinds of settings that are taken.
        url: the field that a URL given in their place was meant for, perhaps.

    Raises:
        TypeError: they are none of these.
    """
    cure = f"cachekeeper.load_settings({url}=…), or nothing for those of the environment"
    check_given(settings, "settings", *wanted, cure=cure)


def load_settings(**overrides: object) -> Settings:
    """The settings of this process's environment.

    Args:
        overrides: fields by name, in place of the environment's.

    Raises:
        SettingsError: names every variable at fault, a line each, and what it should be.
    """
    return load(Settings, **overrides)


def load(kind: type[S], **overrides: Any) -> S:
    """The settings of one kind, as `load_settings`."""
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
    """A line for each variable that is nearly one of ours; a word in the log for one that is not even that.

    Those are no error, and neither is what Kubernetes sets: in a namespace with a service called `cachekeeper-redis`,
    say, every pod is given `CACHEKEEPER_REDIS_PORT`, which is nearly `CACHEKEEPER_REDIS_URL`.
    """
    ours = [PREFIX + field.upper() for field in {**Settings.model_fields, **DoorSettings.model_fields}]
    lines = []
    for name in sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in ours):
        meant = get_close_matches(name.upper(), ours, n=1, cutoff=_NEARLY)
        if meant and not _OF_KUBERNETES.search(name.upper()):
            lines.append(f"  {name}: is no setting; {meant[0]} is")
        else:
            log_once(f"setting:{name}", "%s is no setting, and means nothing here", name)
    return lines


def _line(location: tuple[int | str, ...], kind: str, message: str) -> str:
    message = message.removeprefix("Value error, ")
    name = PREFIX + str(location[0]).upper()
    inside = "".join(f"[{part}]" for part in location[1:] if part != "[key]")
    return f"  {name}{inside}: " + ("is not set, and has no default" if kind == "missing" else message)
