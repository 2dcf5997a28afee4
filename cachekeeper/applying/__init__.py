"""Turning commands into changes of Redis keys and MongoDB documents, many events at a time.

May import `reading` (whose keeper knows the servers) and what is below it. Knows nothing of a broker: a worker applies
what was delivered, and a program may apply what it has just published.
"""
