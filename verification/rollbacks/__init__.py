"""Servers that come back with older data, and deposed primaries: for how long is their old data used?

May import the engine, the shop and `testkit`.
"""
