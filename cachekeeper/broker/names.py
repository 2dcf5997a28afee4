"""Names in the broker: queues, keys, headers. Each is told here once, and no library is needed for it."""

from __future__ import annotations

# Every name in the broker contains `cachekeeper`, so that it may be shared with another Celery application. kombu's
# and Celery's own names belong to all applications that do not change them: each worker puts back whatever has been in
# `unacked` for its own visibility timeout, and `celery control shutdown` ends all that listen to `celery.pidbox`.
# A `global_keyprefix` would do the same, and rename the list that publishers in other languages push to.

TASK = "cachekeeper.apply"
QUEUE = "cachekeeper"

UNACKED = "cachekeeper.unacked"
"""On Redis, a hash: the messages that workers have taken and not yet acknowledged, by delivery tag."""

UNACKED_INDEX = "cachekeeper.unacked_index"
"""On Redis, a sorted set: when each of them was taken, in seconds since 1970 by the server's clock."""

UNACKED_MUTEX = "cachekeeper.unacked_mutex"
"""On Redis, kombu's lock for putting back. Not used: putting back is one script, which needs no lock. It is set all the
same: should a later kombu take the lock elsewhere, that must not be `unacked_mutex`, which other applications share."""

BINDING_DEADLINES = "cachekeeper.binding_deadlines"
"""On Redis, a sorted set: until when the bindings of the control exchanges are kept, in milliseconds since 1970.

kombu's own name for it does not contain `cachekeeper`: a user with the right `~*cachekeeper*` could not write to it.
"""

PAUSE = "cachekeeper.pause"
"""On Redis, a list that never exists. To wait for it is to pause."""

CONTROL_EXCHANGE = "cachekeeper"
"""Celery's name for what `celery inspect` and `celery control` use. The exchange is called `cachekeeper.pidbox`."""

KEY_TYPES = {
    QUEUE: "list",
    UNACKED: "hash",
    UNACKED_INDEX: "zset",
    BINDING_DEADLINES: "zset",
    f"_kombu.binding.{QUEUE}": "set",
    f"_kombu.binding.{CONTROL_EXCHANGE}.pidbox": "set",
    f"_kombu.binding.reply.{CONTROL_EXCHANGE}.pidbox": "set",
}
"""On Redis, the keys of a fixed name, and of which type each is."""

EVENT_EXCHANGE = "cachekeeper.events"
"""Of Celery's task events. Workers send them only where somebody has turned them on."""

DEAD_QUEUE = "cachekeeper.dead"
"""Where RabbitMQ puts what was delivered too often: messages that end their worker. All else is a dead letter in
MongoDB."""

OUTBOX_HEADER = "cachekeeper_outbox"
"""True in a message whose events are records of the outbox: they leave it when the message has been dealt with. A
header, since a worker that does not know it applies the events all the same."""

LETTER_HEADER = "cachekeeper_letter"
"""In a message that publishes a dead letter again: how often it had failed, and when for the first time, in
milliseconds since 1970. Should it fail again, its letter goes on from there."""

UNREADABLE_HEADER = "cachekeeper_unreadable"
"""Set by the worker that receives a message which neither kombu nor py-amqp could read: why."""
