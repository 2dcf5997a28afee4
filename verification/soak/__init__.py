"""A worker, a publisher and a reader under a steady load, while their connections are cut: does anything grow?

May import the engine, the shop, `testkit`, and the chaos runs' proxy.
"""
