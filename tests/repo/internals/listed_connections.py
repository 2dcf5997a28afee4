"""What our connections and our pool rely on of redis-py's. A part of the list in listed.py."""

from tests.repo.internals.checking import Internal

_CONNECTIONS = "cachekeeper/connections/redis_connections.py"
_POOL = "cachekeeper/connections/redis_pool.py"

OF_CONNECTIONS = (
    # --- redis-py's connections: what is counted on them
    Internal(_CONNECTIONS, "redis:Connection"),
    Internal(_CONNECTIONS, "redis:SSLConnection"),
    Internal(_CONNECTIONS, "redis:UnixDomainSocketConnection"),
    Internal(_CONNECTIONS, "redis.connection:AbstractConnection"),
    Internal(_CONNECTIONS, "redis.connection:AbstractConnection.__init__", "self, …, protocol"),
    Internal(_CONNECTIONS, "redis.connection:AbstractConnection._parser", assigned=True),
    Internal(_CONNECTIONS, "redis.connection:AbstractConnection._sock", assigned=True),
    Internal(_CONNECTIONS, "redis.connection:AbstractConnection.check_health", "self"),
    Internal(_CONNECTIONS, "redis.connection:AbstractConnection.connect_check_health", "self, …, check_health"),
    Internal(_CONNECTIONS, "redis.connection:AbstractConnection.disconnect", "self, *args, …"),
    Internal(_CONNECTIONS, "redis.connection:AbstractConnection.health_check_interval", assigned=True),
    Internal(_CONNECTIONS, "redis.connection:AbstractConnection.pack_commands", "self, commands"),
    Internal(_CONNECTIONS, "redis.connection:AbstractConnection.send_command", "self, *args, **kwargs"),
    Internal(_CONNECTIONS, "redis.connection:AbstractConnection.send_packed_command", "self, command, check_health"),
    Internal(_CONNECTIONS, "redis.connection:AbstractConnection.set_parser", "self, parser_class"),
    Internal(_CONNECTIONS, "redis._parsers:_HiredisParser.read_response", "self, …"),
    Internal(_CONNECTIONS, "redis._parsers:_RESP2Parser.read_response", "self, …"),
    # --- redis-py's pool
    Internal(_POOL, "redis:Connection"),
    Internal(_POOL, "redis.connection:AbstractConnection.can_read", "self, …"),
    Internal(_POOL, "redis.connection:AbstractConnection.connect", "self"),
    Internal(_POOL, "redis.connection:AbstractConnection.disconnect", "self, *args, …"),
    Internal(_POOL, "redis.connection:AbstractConnection.pid", assigned=True),
    Internal(_POOL, "redis:ConnectionPool"),
    Internal(_POOL, "redis:ConnectionPool.__init__", "self, connection_class, max_connections, …"),
    Internal(_POOL, "redis:ConnectionPool._available_connections", assigned=True),
    Internal(_POOL, "redis:ConnectionPool._checkpid", "self"),
    Internal(_POOL, "redis:ConnectionPool._in_use_connections", assigned=True),
    Internal(_POOL, "redis:ConnectionPool._lock", assigned=True),
    Internal(_POOL, "redis:ConnectionPool.connection_class", assigned=True),
    Internal(_POOL, "redis:ConnectionPool.connection_kwargs", assigned=True),
    Internal(_POOL, "redis:ConnectionPool.disconnect", "self, inuse_connections"),
    Internal(_POOL, "redis:ConnectionPool.get_connection", "self, command_name, *keys, **options"),
    Internal(_POOL, "redis:ConnectionPool.make_connection", "self"),
    Internal(_POOL, "redis:ConnectionPool.max_connections", assigned=True),
    Internal(_POOL, "redis:ConnectionPool.pid", assigned=True),
    Internal(_POOL, "redis:ConnectionPool.release", "self, connection"),
    Internal(_POOL, "redis:ConnectionPool.reset", "self"),
    Internal(_POOL, "redis:Redis.connection_pool", assigned=True),
    Internal(_POOL, "redis.cluster:ClusterNode.redis_connection", assigned=True),
    Internal(_POOL, "redis.cluster:RedisCluster.get_nodes", "self"),
    Internal(_POOL, "redis.exceptions:MaxConnectionsError"),
)
