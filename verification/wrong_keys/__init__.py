"""Late replies and exceptions between send and read: does a caller ever get the answer to another key?

May import the engine, the shop and `testkit`.
"""
