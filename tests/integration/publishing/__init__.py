"""Publishers on real brokers: confirmations, buffers, and how processes end.

May import the engine, the shop and `testkit`, and no other area.
"""
