"""Connections to Redis and MongoDB. They fail within their time limits, with errors that name the cause.

May import `protocol` and the layers below it. With `redis_connections`, no late reply reaches the next caller.
"""
