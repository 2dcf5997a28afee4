"""What publishers and workers share of the broker: names, connection options, refusals, our transport for Redis.

May import `connections` and what is below it. Knows no event: to it a message is text.
"""
