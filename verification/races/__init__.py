"""Race conformance: named interleavings, forced at named points, for this project and for what people use today.

`make races`. Each case (`cases*.py`) is written once, against the small interface in `adapters/base.py`; `points.py`
holds a client where the case wants it held, on the wire and at its read of MongoDB, so that libraries run as they are.

May import the engine, the shop and `testkit`.
"""
