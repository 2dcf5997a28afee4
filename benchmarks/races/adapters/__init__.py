"""Who is compared: one file a library, all against `base.Client`."""

from benchmarks.races.adapters.base import Aside, Client, Contender
from benchmarks.races.adapters.dogpile import DOGPILE
from benchmarks.races.adapters.ours import OURS, REUSED
from benchmarks.races.adapters.plain import PLAIN, WRITE_THROUGH
from benchmarks.races.adapters.with_aiocache import AIOCACHE
from benchmarks.races.adapters.with_cashews import CASHEWS

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
