"""From MongoDB to the broker: the outbox and the change stream, each sent by one process at a time.

May import `publishing` and what is below it. A relay remembers its place only after the broker has confirmed.
"""
