"""Redis first, then the source: lookups, blocklists, and the keeper that holds the servers together.

May import `connections` and what is below it. `core` is the algorithm without I/O, `sync` the shell that drives it.
"""
