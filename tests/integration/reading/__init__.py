"""The reader on real servers: herds, outages, pools, forks, and views whose own code fails.

May import the engine, the shop and `testkit`, and no other area.
"""
