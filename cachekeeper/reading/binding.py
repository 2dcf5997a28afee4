"""A view bound to a keeper: the numbers and the reader that a read needs, computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachekeeper.model.view_code import decoder_of
from cachekeeper.model.view_kinds import Holds
from cachekeeper.model.views import AnyView
from cachekeeper.reading.blocklist import BlocklistReader
from cachekeeper.values.ids import IdType

if TYPE_CHECKING:
    from cachekeeper.reading.servers import Servers
    from cachekeeper.settings import Settings

_PAUSE_MS = 5_000


class Binding:
    """A view bound to a keeper: numbers and reader are computed once, so that a hit costs hardly more than `GET`."""

    __slots__ = (
        "blocklist",
        "decode",
        "ids",
        "life_ms",
        "marker_ms",
        "prefix",
        "reader",
        "shared",
        "suffix",
        "text_limit",
        "ttl_ms",
    )

    def __init__(self, view: AnyView, servers: Servers, settings: Settings) -> None:
        self.prefix, self.suffix = view.template.prefix, view.template.suffix
        self.reader = servers.readers[view.server]
        self.ids = settings.id_types.get(view.name, view.ids or IdType.STR)
        self.shared = view.is_shared
        self.text_limit = settings.text_limit_chars
        self.marker_ms = settings.marker_ms
        self.blocklist: BlocklistReader | None = None
        if view.holds is Holds.BLOCK:
            self.ttl_ms = 0
            self.blocklist = BlocklistReader(
                view, self.reader, settings.block_leeway_seconds, servers.eviction[view.server]
            )
        else:
            self.ttl_ms = round(view.ttl_seconds * 1000)
            self.decode = decoder_of(view.codec)
        # Upper bound for a lease plus the value that is filled at its end, with slack for a paused server.
        self.life_ms = settings.lease_ms + self.ttl_ms + _PAUSE_MS
