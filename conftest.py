"""Fixtures for all tests: those of `tests` and those beside the code in `verification` and `benchmarks`."""

pytest_plugins = ("testkit.servers_plugin", "testkit.shop_plugin")
