"""The contract on the oldest and the newest clients that pyproject.toml allows: `make versions`.

`environments` makes an environment for each combination, `plugin` checks inside pytest that the clients are the ones
that were asked for, and `__main__` runs the tests in each.
"""
