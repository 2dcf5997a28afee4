"""The model of the cache protocol, searched exhaustively; and the real scripts, compared with it on real servers.

May import the engine, the shop and `testkit`.
"""
