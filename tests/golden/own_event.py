"""The event of the golden file `own_event.json`: one value for each type of field."""

from __future__ import annotations

from collections import deque
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from uuid import UUID

from testkit.own_events import Grade, Labels, Line, Mixed, Money, OrderPlaced, Point, Size, Transfer, Window

_REF = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
_DAY = date(2031, 3, 4)
_EAST = timezone(timedelta(hours=5, minutes=30))

EVENT = OrderPlaced(
    id="e1",
    time=datetime(2031, 3, 4, 5, 6, 7, 890123, UTC),
    version=7,
    order_id="42",
    due=datetime(2031, 3, 5, tzinfo=UTC),
    note="Ada",
    day=_DAY,
    at=datetime(2031, 3, 4, 5, 6, 7, 890123, _EAST),
    clock=time(5, 6, 7, 890123),
    lasts=timedelta(days=400, seconds=5, microseconds=6),
    total=Decimal("1250.10"),
    ref=_REF,
    blob=b"\xff\xfe\x00",
    size=Size.LARGE,
    grade=Grade.TWO,
    mixed=Mixed.TEXT,
    pair=(1, "a"),
    many=(_DAY, date(1999, 12, 31)),
    tags={"new"},
    refs=frozenset({_REF}),
    queue=deque([3, 1, 2]),
    by_number={1: "one", -2: "minus two"},
    by_day={_DAY: Decimal("0.1")},
    by_ref={_REF: [b"\xfb", b""]},
    by_size={Size.SMALL: 5},
    lines=[Line(sku=_REF, price=Money(amount=Decimal(5)), picture=b"\xff", parts=[])],
    paid=Transfer(at=datetime(2031, 3, 4, 5, 6, 7, tzinfo=UTC)),
    point=Point(1, 2.5),
    labels=Labels(made=_DAY, by="Ada"),
    window=Window(time(8), timedelta(minutes=-5)),
    ratio=1.5,
    count=10**20,
    flag_or_number=True,
    when=_DAY,
    list_or_text=[_DAY],
)
