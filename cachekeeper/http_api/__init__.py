"""The HTTP door: events as CloudEvents 1.0, for services in other languages. Needs the extra `http`.

- `problems`: refusals, as RFC 9457 words them.
- `messages`: an HTTP message to CloudEvents, in all three content modes.
- `decoding`: a CloudEvent to one of the registered events.
- `openapi`: the description of all this.
- `app`: the application.

May import `publishing` and what is below it.
"""

from cachekeeper.http_api.app import Door

__all__ = ["Door"]
