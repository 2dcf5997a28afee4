"""Connections to Redis and MongoDB, which fail typed and within their time limits.

May import `protocol` and what is below it. `redis_connections` never lets a late answer reach the next caller.
"""
