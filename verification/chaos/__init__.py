"""A fault-injection run on real servers, and the same run mutated: `make chaos SEED=7 DURATION=60`.

May import the engine, the shop and `testkit`.
"""
