"""Benchmarks: `make bench`. Each prints a table and writes `benchmarks/results/<name>.json`.

May import the engine, the shop and `testkit`, but not `tests` or `verification`.
"""
