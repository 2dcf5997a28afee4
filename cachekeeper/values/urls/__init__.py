"""The URLs that operators write into settings, checked until the library that takes each can make a client of it.

`redis_url`, `broker_url` and `mongodb_url` rest on `options`, and all on `checking`. No message here quotes what was
given: it may hold a password.
"""
