"""Publishes events to the broker, and reports success only for what the broker has confirmed.

May import `broker` and the packages below it, and nothing that reads messages. Loads kombu at the first publish, and
never loads Celery.
"""
