"""Tools for processes and threads: backoff, loops that survive failures, and renewal after a fork.

May import `errors` and `metrics`, and nothing else.
"""
