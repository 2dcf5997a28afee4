"""What this library and Node.js services share: keys, JSON, the fold, and a reader in JavaScript.

May import the engine, the shop and `testkit`, and no other area.
"""
