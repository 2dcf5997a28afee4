"""Servers as child processes: found, started, ended, and `cachekeeper dev`.

May import the engine, the shop and `testkit`, and no other area.
"""
