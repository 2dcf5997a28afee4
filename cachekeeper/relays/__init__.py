"""Relays from MongoDB to the broker: the outbox and the change stream, each sent by one process at a time.

May import `publishing` and the packages below it. A relay stores its place only after the broker has confirmed.
"""
