"""What runs without an event: watching for rollbacks, auditing keys, warming views, keeping blocklists ready.

May import `applying` and what is below it.
"""
