"""Commands that become writes, on real servers: order, refusals, documents that MongoDB does not take, dropped views.

May import the engine, the shop and `testkit`, and no other area.
"""
