"""The error tree. Everything this library raises on purpose hangs below `CachekeeperError`.

    CachekeeperError
    ├── InputError (also ValueError)     the caller's input was refused; nothing was written
    │   ├── InvalidId
    │   ├── InvalidText
    │   ├── InvalidTime
    │   ├── InvalidVersion
    │   ├── InvalidValue
    │   └── InvalidEvent
    │       └── UnknownEvent
    ├── SettingsError                    the environment is wrong; every variable at fault is named
    ├── RegistrationError                a view, event or handler does not fit the others
    ├── NoTransaction                    an event for the outbox, without the transaction of its change
    ├── WriteRefused                     MongoDB does not take the document, however often it is asked
    ├── DocumentEnded                    the document has ended for good, and is not written any more
    │   └── SessionEnded (in lookups)    a save for a session that was logged out
    ├── Unavailable                      an outage, never to be read as 'does not exist'
    │   ├── CacheUnavailable             Redis
    │   │   └── CacheOverloaded          (also Overloaded) no connection of the pool was free in time
    │   ├── DatabaseUnavailable          MongoDB
    │   │   └── DatabaseBehind           it answered with less than the cache has already seen
    │   ├── BrokerUnavailable            the event was not confirmed
    │   │   └── BufferFull               events wait for the broker, and there is no room for more
    │   ├── Overloaded                   the cap on concurrent database reads was reached
    │   └── PersistedNotCached           MongoDB has it, Redis does not yet; a retry is safe
    ├── ViewFailed                       a view's own code (loader or codec) failed; the cause is what it raised
    └── Damaged
        ├── DamagedValue                 what lies at the key cannot be read
        └── DamagedDocument              what lies in the collection cannot be cached

A message names the field or setting and the cure. It never holds a value: that may be a token.
"""


class CachekeeperError(Exception):
    """Root of the tree."""


class InputError(CachekeeperError, ValueError):
    """Input was refused at the door; nothing was written.

    Attributes:
        field: the name of the field at fault.
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
    """Neither ISO 8601 with a zone, nor seconds since 1970."""


class InvalidVersion(InputError):
    """Not an integer from 0 to 2^53 - 1."""


class InvalidValue(InputError):
    """A value that JSON or JavaScript would change; `field` is the path to it."""


class InvalidEvent(InputError):
    """An event with a missing, extra or wrong field; `field` names the first, the message all of them."""


class UnknownEvent(InvalidEvent):
    """No registered event has this type."""


class SettingsError(CachekeeperError):
    """The environment is wrong. The message lists every variable at fault, a line each."""


class RegistrationError(CachekeeperError):
    """A view, event or handler does not fit what is registered already."""


class NoTransaction(CachekeeperError):
    """An event is to be stored in the transaction of its change, and there is none; or the server has none."""


class WriteRefused(CachekeeperError):
    """The collection's validator or a unique index forbids what was to be written, or it is too large. No outage."""


class DocumentEnded(CachekeeperError):
    """The document has ended for good; nothing was written to it afterwards.

    Attributes:
        meanwhile: whether it ended while it was being saved.
    """

    def __init__(self, text: str, *, meanwhile: bool = False) -> None:
        super().__init__(text)
        self.meanwhile = meanwhile


class Unavailable(CachekeeperError):
    """An outage. It says nothing about whether the thing asked for exists."""


class CacheUnavailable(Unavailable):
    """Redis did not answer, or refused (out of memory, loading, read-only)."""


class DatabaseUnavailable(Unavailable):
    """MongoDB did not answer within the time limit, or refused."""


class DatabaseBehind(DatabaseUnavailable):
    """Every load until the deadline was older than what an event has already announced.

    The message names the view, the version that was announced, and the one in MongoDB. Where MongoDB is not about to
    catch up, an event without a version lifts it: it makes the cache forget the announced one.
    """


class BrokerUnavailable(Unavailable):
    """The broker did not confirm the event within the time limit; it may or may not have it."""


class BufferFull(BrokerUnavailable):
    """Too many events wait for a broker that does not take them; this one is not among them."""


class Overloaded(Unavailable):
    """The cap on concurrent database reads of this process was reached; ask again later."""


class CacheOverloaded(CacheUnavailable, Overloaded):
    """No connection to Redis was free in time: `max_connections` in the URL is too low. Redis itself may be well."""


class PersistedNotCached(Unavailable):
    """MongoDB holds the change (by majority) but Redis could not be written. A retry is safe."""


class ViewFailed(CachekeeperError):
    """A view's own code failed: its loader or its codec. Mend the view.

    `__cause__` is what it raised, or MongoDB's error about its query. It is None where the code returned a wrong value,
    such as a coroutine or a filter that is no mapping. The message names the view and the exception's class.
    It leaves out the exception's text, which may hold a value.
    """


class Damaged(CachekeeperError):
    """Something that is there cannot be read."""


class DamagedValue(Damaged):
    """What lies at the key is of another Redis type, or no longer parses."""


class DamagedDocument(Damaged):
    """A document whose field is not what the view caches."""
