"""Outbox and change stream on a real MongoDB: what is killed where, and what it costs.

May import the engine, the shop and `testkit`, and no other area.
"""
