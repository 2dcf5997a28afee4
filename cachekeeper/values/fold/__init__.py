"""Text for search keys: folded so that `LAMP` and `lamp` share a key, and matched in MongoDB by the very same fold.

`fold` maps each character to one character by a table of our own. Python, JavaScript, MongoDB and Redis each bring a
Unicode version, and disagree on hundreds of characters; a key formed by one and invalidated by another would stay
forever. The table is data (`classes.json`), made by `scripts/generate_fold.py`, and never computed at run time.

A key is formed in this order: `"search:" + escape_braces(fold(text))`. `vectors.json` has examples that every
implementation must reproduce; the one in JavaScript is `examples/node/search-key.js`.
"""

from cachekeeper.values.fold.brace_escapes import escape_braces, unescape_braces
from cachekeeper.values.fold.folding import condition, fold, pattern, vectors

__all__ = ["condition", "escape_braces", "fold", "pattern", "unescape_braces", "vectors"]
