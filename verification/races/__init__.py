"""Race conformance: named interleavings, forced at named points, for this project and for caches in use today.

`make races` plays them. Each case (`cases*.py`) is written once, against the small interface in `adapters/base.py`.
`points.py` holds a client at the points of the case, on the wire and at its read of MongoDB, so that libraries run
without changes.

May import the engine, the shop and `testkit`.
"""
