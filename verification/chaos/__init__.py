"""Fault-injection runs on real servers, as shipped or with a known-bad variant: `make chaos SEED=7 DURATION=60`.

This package may import the engine, the shop and `testkit`.
"""
