"""Real servers as child processes: Redis and MongoDB, found on PATH or inside wheels, and the `cachekeeper dev` stack.

Nothing started here outlives the process that started it; see `Guardian`.
May import `broker` and what is below it.
"""

from cachekeeper.devservers.errors import EmbeddedError, ServerFailed, ServerUnavailable, StackError
from cachekeeper.devservers.guardian import Guardian
from cachekeeper.devservers.mongo_server import MongoServer
from cachekeeper.devservers.process import ServerProcess
from cachekeeper.devservers.program_version import FoundServer
from cachekeeper.devservers.programs import Machine, all_redis, find_mongod, find_redis
from cachekeeper.devservers.redis_server import RedisServer
from cachekeeper.devservers.stack import DevStack

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
