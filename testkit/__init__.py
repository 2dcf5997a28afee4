"""What tests, verification and benchmarks share: real servers, a shop on them, watched clients, figures.

May import the engine and the shop, and nothing of those who use it.
"""
