"""What runs without an event, on real servers: rollbacks, audits, warming, blocklists.

May import the engine, the shop and `testkit`, and no other area.
"""
