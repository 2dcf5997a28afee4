"""Text for search keys: folded so that `LAMP` and `lamp` share a key, and matched in MongoDB by the same fold.

`fold` maps each character to one character by its own table. Python, JavaScript, MongoDB and Redis each have their own
Unicode version, and these versions disagree on hundreds of characters. If one of them formed a key and another
invalidated it, a stale key could stay forever. The table is data (`classes.json`). `scripts/generate_fold.py` makes it;
it is never computed at run time.

A key is formed in this order: `"search:" + escape_braces(fold(text))`. `vectors.json` has examples that every
implementation must reproduce. The JavaScript implementation is `examples/node/search-key.js`.
"""

from cachekeeper.values.fold.brace_escapes import escape_braces, unescape_braces
from cachekeeper.values.fold.folding import condition, fold, pattern, vectors

__all__ = ["condition", "escape_braces", "fold", "pattern", "unescape_braces", "vectors"]
