"""Turn commands into changes of Redis keys and MongoDB documents, for many events at a time.

May import `reading` (its keeper has the connections) and the packages below it. Does not know a broker: a worker
applies the events that were delivered, and a program may apply the events that it has just published.
"""
