"""Tests of what surrounds the code: docs, packaging, compose, setup script, CI legs, internals of libraries.

May import what it looks at, and `testkit`.
"""
