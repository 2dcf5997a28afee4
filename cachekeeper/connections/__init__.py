"""Connections to Redis and MongoDB, which fail typed and within their time limits.

May import `protocol` and what is below it. With `redis_connections`, no late answer reaches the next caller.
"""
