"""The `cachekeeper` command, as a process, on real servers.

May import the engine, the shop and `testkit`, and no other area.
"""
