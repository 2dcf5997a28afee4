"""Pure values: ids, keys, times, versions, codecs, folded text, and JSON as Mongoose writes it.

May import `errors` and `metrics`, and nothing else. Nothing here does I/O, but that a URL which names certificates has
them looked at.
"""
