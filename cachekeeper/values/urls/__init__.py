"""The URLs in settings, checked so that the library that uses each URL can make a client from it.

`redis_url` and `broker_url` use `options`; all of them use `checking`. No message here quotes the URL: it may hold a
password.
"""
