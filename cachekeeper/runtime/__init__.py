"""What processes and threads need: growing pauses, and loops that outlive their failures.

May import `errors` and `metrics`, and nothing else.
"""
