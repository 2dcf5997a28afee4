"""What processes and threads need: growing pauses, loops that outlive their failures, a new beginning after a fork.

May import `errors` and `metrics`, and nothing else.
"""
