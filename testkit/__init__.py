"""Tools that tests, verification and benchmarks share: real servers, a shop on them, watched clients, figures.

May import the engine and the shop, but nothing of the packages that use it.
"""
