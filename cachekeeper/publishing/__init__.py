"""Bringing events to the broker, and telling the caller only what the broker has confirmed.

May import `broker` and what is below it, and nothing that reads messages. Loads kombu at the first publish, and Celery
never.
"""
