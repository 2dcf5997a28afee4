"""Load the fixtures for all tests: in `tests`, and beside the code in `verification` and `benchmarks`."""

pytest_plugins = ("testkit.servers_plugin", "testkit.shop_plugin")
