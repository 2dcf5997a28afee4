"""Declarations of an application: events, views, their sources, the commands of handlers, and the registry.

May import `protocol` and the packages below it. These are values without I/O: the packages above act on them.
"""
