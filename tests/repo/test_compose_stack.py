from typing import Any

import pytest
import yaml

from cachekeeper.devservers import FoundServer, Guardian, RedisServer
from testkit.compose import ROOT, options

SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]


@pytest.mark.parametrize(("service", "policy"), [("cache", "allkeys-lfu"), ("security", "noeviction")])
def test_redis_takes_the_arguments_of_compose(
    guardian: Guardian, redis_found: FoundServer, service: str, policy: str
) -> None:
    given = options(SERVICES[service]["command"])
    server = RedisServer(guardian, redis_found, config={name[2:]: value for name, value in given.items()})
    server.start()
    try:
        with server.client() as client:
            assert client.config_get("*") | {
                "maxmemory": str(256 * 1024 * 1024),
                "maxmemory-policy": policy,
                "save": "",
                "appendonly": "no",
            } == client.config_get("*")
    finally:
        server.kill()
