"""The HTTP door takes events as CloudEvents 1.0 from services in other languages. It needs the extra `http`.

- `problems`: error answers in the form of RFC 9457.
- `messages`: from an HTTP message to CloudEvents, in all three content modes.
- `decoding`: from a CloudEvent to a registered event.
- `openapi`: the door's description in OpenAPI.
- `app`: the application.

May import `publishing` and the packages below it.
"""

from cachekeeper.http_api.app import Door

__all__ = ["Door"]
