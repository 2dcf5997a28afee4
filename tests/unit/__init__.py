"""Tests without servers, builds and subprocesses.

May import the engine, the shop and `testkit`. No server, no process, no socket.
"""
