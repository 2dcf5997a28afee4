"""The broker code that publishers and workers share: names, connection options, refusals, our transport for Redis.

It may import `connections` and the packages below that. It does not know events: it handles a message as text.
"""
