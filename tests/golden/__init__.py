"""Golden files: the wire format, frozen; and the JSON that Mongoose writes.

May import the engine, the shop and `testkit`.
"""
