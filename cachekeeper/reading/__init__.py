"""Read views, Redis first and MongoDB second: lookups, blocklists, and the keeper that owns the connections.

May import `connections` and the packages below it. `core` is the algorithm without I/O; `sync` is the shell that
drives it.
"""
