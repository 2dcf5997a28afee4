"""Settings: the environment, read once, into one frozen object.

`groups` declares each setting with its default. `per_program` says which settings a program reads.
May import `values` and the layers below it.
"""

from cachekeeper.settings.groups import DEFAULT_MODULES, PREFIX
from cachekeeper.settings.loading import check_settings, load, load_settings
from cachekeeper.settings.per_program import (
    DoorSettings,
    LetterSettings,
    OutboxSettings,
    PolicySettings,
    PublisherSettings,
    RelaySettings,
    ReplaySettings,
    Settings,
    StreamSettings,
    WorkerSettings,
)

__all__ = [
    "DEFAULT_MODULES",
    "PREFIX",
    "DoorSettings",
    "LetterSettings",
    "OutboxSettings",
    "PolicySettings",
    "PublisherSettings",
    "RelaySettings",
    "ReplaySettings",
    "Settings",
    "StreamSettings",
    "WorkerSettings",
    "check_settings",
    "load",
    "load_settings",
]
