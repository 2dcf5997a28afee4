"""Delivery: events travel as Celery task messages, and a worker turns them into Redis keys."""
