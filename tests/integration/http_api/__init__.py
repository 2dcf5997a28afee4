"""The HTTP door over a socket, with real brokers behind it.

May import the engine, the shop and `testkit`, and no other area.
"""
