"""Servers that come back with older data, and deposed primaries: for how long are they believed?

May import the engine, the shop and `testkit`.
"""
