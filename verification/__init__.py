"""Proofs of the promises: a model of the protocol, races, faults, kills, rollbacks, late replies, and an hour of load.

Each part has its own tests, which `make test` runs. May import the engine, the shop and `testkit`, but neither `tests`
nor `benchmarks`.
"""
