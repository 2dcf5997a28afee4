"""Redis and MongoDB as child processes, with programs from PATH or from wheels, and the stack of `cachekeeper dev`.

Every process that is started here ends with the process that started it: see `Guardian`.
May import `broker` and the packages below it.
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
