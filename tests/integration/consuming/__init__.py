"""A worker on real brokers: what it takes, survives, gives up and puts back.

May import the engine, the shop and `testkit`, and no other area.
"""
