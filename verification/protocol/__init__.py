"""The model of the cache protocol, searched exhaustively; and the scripts, replayed against it on real servers.

May import the engine, the shop and `testkit`.
"""
