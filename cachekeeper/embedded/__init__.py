"""Real servers as child processes: Redis and MongoDB, found on PATH or inside wheels, and the `cachekeeper dev` stack.

Nothing started here outlives the process that started it; see `Guardian`.
"""

from cachekeeper.embedded.errors import EmbeddedError, ServerFailed, ServerUnavailable, StackError
from cachekeeper.embedded.finding import FoundServer, Machine, all_redis, find_mongod, find_redis
from cachekeeper.embedded.guardian import Guardian
from cachekeeper.embedded.mongo_server import MongoServer
from cachekeeper.embedded.process import ServerProcess
from cachekeeper.embedded.redis_server import RedisServer
from cachekeeper.embedded.stack import DevStack

__all__ = [
    "DevStack",
    "EmbeddedError",
    "FoundServer",
    "Guardian",
    "Machine",
    "MongoServer",
    "RedisServer",
    "ServerFailed",
    "ServerProcess",
    "ServerUnavailable",
    "StackError",
    "all_redis",
    "find_mongod",
    "find_redis",
]
