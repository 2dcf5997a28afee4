"""The shop's lookups on real servers: users, sessions, tokens, searches.

May import the engine, the shop and `testkit`, and no other area.
"""
