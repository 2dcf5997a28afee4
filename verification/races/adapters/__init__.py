"""The contenders that are compared: one file per library. All implement `base.Client`."""

from verification.races.adapters.base import Aside, Client, Contender
from verification.races.adapters.dogpile import DOGPILE
from verification.races.adapters.ours import OURS, REUSED
from verification.races.adapters.plain import PLAIN, WRITE_THROUGH
from verification.races.adapters.with_aiocache import AIOCACHE
from verification.races.adapters.with_cashews import CASHEWS

CONTENDERS = (OURS, PLAIN, WRITE_THROUGH, CASHEWS, AIOCACHE, DOGPILE, REUSED)

__all__ = [
    "AIOCACHE",
    "CASHEWS",
    "CONTENDERS",
    "DOGPILE",
    "OURS",
    "PLAIN",
    "REUSED",
    "WRITE_THROUGH",
    "Aside",
    "Client",
    "Contender",
]
