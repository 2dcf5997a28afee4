"""Tasks that run without an event: watching for rollbacks, auditing keys, warming views, keeping blocklists ready.

May import `applying` and the packages below it.
"""
