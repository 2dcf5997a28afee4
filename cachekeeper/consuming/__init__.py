"""The worker's side: takes messages, reads them, applies their events, and keeps failed ones as dead letters.

It may import everything except `cli`, `celery`, `devservers` and `http_api`. Publishers and read-side code import
nothing from here.
"""
