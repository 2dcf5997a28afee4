"""The Redis-first reader: an algorithm without I/O (`core`) and the shell that drives it (`sync`)."""

from cachekeeper.reader.core import Limits, Start, Target, decoder_failed
from cachekeeper.reader.sync import SyncReader

__all__ = ["Limits", "Start", "SyncReader", "Target", "decoder_failed"]
