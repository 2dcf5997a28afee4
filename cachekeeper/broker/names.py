"""Names in the broker: queues, keys, headers. Each name is defined here once. This module imports no library."""

from __future__ import annotations

# Every name in the broker contains `cachekeeper`, so that the broker can be shared with another Celery application.
# All applications that keep kombu's and Celery's default names share those names: each worker puts back every message
# that has been in `unacked` for its own visibility timeout, and `celery control shutdown` ends every worker that
# listens to `celery.pidbox`. A `global_keyprefix` would separate the names too, but it would also rename the list that
# publishers in other languages push to.

TASK = "cachekeeper.apply"
QUEUE = "cachekeeper"

UNACKED = "cachekeeper.unacked"
"""On Redis, a hash: by delivery tag, the messages that workers have taken and not yet acknowledged."""

UNACKED_INDEX = "cachekeeper.unacked_index"
"""On Redis, a sorted set: when each of those messages was taken, in seconds since 1970 by the server's clock."""

UNACKED_MUTEX = "cachekeeper.unacked_mutex"
"""On Redis, kombu's lock for putting messages back. Not used: here one script puts messages back, without a lock.

The name is set anyway. If a later kombu takes the lock elsewhere, it must not take `unacked_mutex`, which other
applications share.
"""

BINDING_DEADLINES = "cachekeeper.binding_deadlines"
"""On Redis, a sorted set: when the bindings of the control exchanges expire, in milliseconds since 1970.

kombu's own name for it does not contain `cachekeeper`: a user with the right `~*cachekeeper*` could not write to it.
"""

PAUSE = "cachekeeper.pause"
"""On Redis, a list that never exists. A channel pauses by waiting for it with a timeout."""

CONTROL_EXCHANGE = "cachekeeper"
"""Celery's name for the exchange of `celery inspect` and `celery control`. On the broker it is `cachekeeper.pidbox`."""

KEY_TYPES = {
    QUEUE: "list",
    UNACKED: "hash",
    UNACKED_INDEX: "zset",
    BINDING_DEADLINES: "zset",
    f"_kombu.binding.{QUEUE}": "set",
    f"_kombu.binding.{CONTROL_EXCHANGE}.pidbox": "set",
    f"_kombu.binding.reply.{CONTROL_EXCHANGE}.pidbox": "set",
}
"""On Redis, the keys with a fixed name, and the type of each."""

EVENT_EXCHANGE = "cachekeeper.events"
"""The exchange of Celery's task events. Workers send these events only if an operator has turned them on."""

DEAD_QUEUE = "cachekeeper.dead"
"""The queue to which RabbitMQ moves messages that were delivered too often, because each delivery ended its worker.

All other failed events and messages become dead letters in MongoDB.
"""

OUTBOX_HEADER = "cachekeeper_outbox"
"""A header that is True in a message whose events are records of the outbox. When the worker has processed the message,
it removes the records from the outbox. It is a header so that a worker that does not know it still applies the events.
"""

LETTER_HEADER = "cachekeeper_letter"
"""A header in a message that publishes a dead letter again: how often its event has failed, and when it failed first,
in milliseconds since 1970. If the event fails again, its dead letter continues this count and keeps this time.
"""

UNREADABLE_HEADER = "cachekeeper_unreadable"
"""A header that the worker sets on a message that neither kombu nor py-amqp can read. Its value is the reason."""
