"""Tests on real servers, by area: each is named like the package that it tests.

May import the engine, the shop and `testkit`.
"""
