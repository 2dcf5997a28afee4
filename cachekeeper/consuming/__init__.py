"""The worker's side: taking messages, reading them, applying their events, and what becomes of those that fail.

May import everything but `cli`, `celery`, `devservers` and `http_api`. Neither publishers nor read-side code import
anything from here.
"""
