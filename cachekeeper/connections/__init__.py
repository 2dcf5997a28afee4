"""Connections to Redis and MongoDB, which fail within their time limits, with typed errors that name the cause.

May import `protocol` and the layers below it. With `redis_connections`, no late reply reaches the next caller.
"""
