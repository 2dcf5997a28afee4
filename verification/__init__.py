"""What proves the promises: the protocol's model, races, faults, kills, rollbacks, late replies, and an hour of load.

Each part carries its own tests, which `make test` runs. May import the engine, the shop and `testkit`; neither `tests`
nor `benchmarks`.
"""
