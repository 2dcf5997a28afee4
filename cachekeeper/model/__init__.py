"""What an application declares: events, views, their sources, the commands of its handlers, and the registry of all.

May import `protocol` and what is below it. Values without I/O: whoever acts on them stands above.
"""
