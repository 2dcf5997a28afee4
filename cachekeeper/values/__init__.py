"""Pure values: ids, keys, times, versions, codecs, folded text, and JSON as Mongoose writes it.

May import only `errors` and `metrics`. Does no I/O, with one exception: if a URL names certificate files, the check of
the URL reads them.
"""
