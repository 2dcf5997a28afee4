"""Is a committed change ever lost? Real processes are killed (SIGKILL) at each gap between commit and acknowledgement.

Every key is cached before its change, and is changed only once. So a lost change shows as a key that stays stale.

May import the engine, the shop and `testkit`.
"""
