"""The error tree. Every error that this library raises on purpose is a `CachekeeperError`.

    CachekeeperError
    ├── InputError (also ValueError)     the caller's input was refused; nothing was written
    │   ├── InvalidId
    │   ├── InvalidText
    │   ├── InvalidTime
    │   ├── InvalidVersion
    │   ├── InvalidValue
    │   └── InvalidEvent
    │       └── UnknownEvent
    ├── SettingsError                    the environment is wrong; the message names every wrong variable
    ├── RegistrationError                a view, event or handler does not fit the others
    ├── NoTransaction                    an event for the outbox came without the transaction of its change
    ├── WriteRefused                     MongoDB refuses the document, and would refuse a retry
    ├── DocumentEnded                    the document has ended for good and is not written again
    │   └── SessionEnded (in lookups)    the session to be saved was logged out
    ├── Unavailable                      an outage; it does not mean 'does not exist'
    │   ├── CacheUnavailable             Redis is unavailable
    │   │   └── CacheOverloaded          (also Overloaded) no connection of the pool was free in time
    │   ├── DatabaseUnavailable          MongoDB is unavailable
    │   │   └── DatabaseBehind           MongoDB returned an older version than the cache has already seen
    │   ├── BrokerUnavailable            the broker did not confirm the event
    │   │   └── BufferFull               the buffer of events that wait for the broker is full
    │   ├── Overloaded                   the limit on concurrent database reads was reached
    │   └── PersistedNotCached           MongoDB has the change, Redis does not yet; a retry is safe
    ├── ViewFailed                       a view's own code (loader or codec) failed; `__cause__` is its exception
    └── Damaged
        ├── DamagedValue                 the value at the key cannot be read
        └── DamagedDocument              the document in the collection cannot be cached

A message names the field or setting, and what to do. It never contains a value, because a value may be a token.
"""


class CachekeeperError(Exception):
    """Root of the tree."""


class InputError(CachekeeperError, ValueError):
    """The caller's input was refused before anything was written.

    Attributes:
        field: the name of the wrong field.
        problem: what is wrong with it.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.field, self.problem)


class InvalidId(InputError):
    """An id that cannot be part of a key, or does not fit the view's id type."""


class InvalidText(InputError):
    """A search text that is empty, too long, or not text."""


class InvalidTime(InputError):
    """A time that is neither ISO 8601 with a zone nor seconds since 1970."""


class InvalidVersion(InputError):
    """A version that is not an integer from 0 to 2^53 - 1."""


class InvalidValue(InputError):
    """A value that JSON or JavaScript would change; `field` is the path to it."""


class InvalidEvent(InputError):
    """An event with a missing, extra or wrong field. `field` names the first such field, the message names all."""


class UnknownEvent(InvalidEvent):
    """An event whose type is not registered."""


class SettingsError(CachekeeperError):
    """The environment is wrong. The message lists every wrong variable, one per line."""


class RegistrationError(CachekeeperError):
    """A view, event or handler does not fit what is already registered."""


class NoTransaction(CachekeeperError):
    """An outbox event needs the transaction of its change: none was open, or the server has no transactions."""


class WriteRefused(CachekeeperError):
    """The collection's validator or a unique index refuses the write, or the write is too large. Not an outage."""


class DocumentEnded(CachekeeperError):
    """The document has ended for good. Nothing was written to it after its end.

    Attributes:
        meanwhile: whether it ended during the save.
    """

    def __init__(self, text: str, *, meanwhile: bool = False) -> None:
        super().__init__(text)
        self.meanwhile = meanwhile


class Unavailable(CachekeeperError):
    """An outage. The requested document may or may not exist."""


class CacheUnavailable(Unavailable):
    """Redis did not answer, or refused (out of memory, loading, read-only)."""


class DatabaseUnavailable(Unavailable):
    """MongoDB did not answer within the time limit, or refused."""


class DatabaseBehind(DatabaseUnavailable):
    """Every load until the deadline was older than the version that an event has already announced.

    The message names the view, the announced version, and the version in MongoDB. If MongoDB will not catch up, publish
    an event without a version: it makes the cache forget the announced version, and the error ends.
    """


class BrokerUnavailable(Unavailable):
    """The broker did not confirm the event within the time limit. The broker may or may not have the event."""


class BufferFull(BrokerUnavailable):
    """The broker takes no events, and the buffer is full of waiting ones. This event was not added to the buffer."""


class Overloaded(Unavailable):
    """The limit on concurrent database reads of this process was reached. Try again later."""


class CacheOverloaded(CacheUnavailable, Overloaded):
    """No connection to Redis was free in time: `max_connections` in the URL is too low. Redis itself may be up."""


class PersistedNotCached(Unavailable):
    """MongoDB has the change (by majority), but the write to Redis failed. A retry is safe."""


class ViewFailed(CachekeeperError):
    """A view's own code failed: its loader or its codec. Fix the view.

    `__cause__` is the exception that the code raised, MongoDB's error about its query, or None. None means that the
    code returned a wrong value, such as a coroutine, or a filter that is not a mapping. The message names the view and
    the exception's class. It leaves out the exception's text, which may contain a value.
    """


class Damaged(CachekeeperError):
    """A value or a document exists, but cannot be used."""


class DamagedValue(Damaged):
    """The value at the key has another Redis type, or cannot be parsed any more."""


class DamagedDocument(Damaged):
    """A document cannot be cached: a field has the wrong type, or the driver or the codec cannot read or write it."""
