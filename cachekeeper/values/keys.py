"""Key templates, the metadata key beside each key, and the proof that two templates never meet."""

from __future__ import annotations

from dataclasses import dataclass

from cachekeeper.errors import InvalidText, RegistrationError

MAX_TEXT_BYTES = 512
RESERVED = "cachekeeper:"


def meta_key(key: str) -> str:
    """The key of the metadata of `key`: the hash tag keeps both in one Cluster slot."""
    return f"{{{key}}}:meta"


def key_of_meta(key: str) -> str:
    """The key whose metadata `key` holds; `key` itself where it is no metadata key."""
    return key[1 : -len("}:meta")] if key.startswith("{") and key.endswith("}:meta") else key


def check_text(value: object, field: str = "text") -> str:
    """A text that may be searched for.

    Raises:
        InvalidText: empty, longer than 512 bytes in UTF-8, with NUL or lone surrogates, or not text.
    """
    if not isinstance(value, str):
        raise InvalidText(field, f"must be text, got {type(value).__name__}")
    if not value:
        raise InvalidText(field, "must not be empty")
    if "\0" in value:
        raise InvalidText(field, "must hold no NUL")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidText(field, "must hold no lone surrogates") from None
    if size > MAX_TEXT_BYTES:
        raise InvalidText(field, f"must be at most {MAX_TEXT_BYTES} bytes in UTF-8, got {size}")
    return value


@dataclass(frozen=True, slots=True)
class Template:
    """A key with one hole, such as `user:{id}:name`.

    Attributes:
        prefix: what stands before the hole; never empty.
        suffix: what stands behind it.
    """

    prefix: str
    suffix: str

    @classmethod
    def of(cls, text: str, hole: str) -> Template:
        """Read the template `text` with the one hole `{hole}`.

        Raises:
            RegistrationError: no or several holes, other braces, nothing before the hole, or a reserved prefix.
        """
        prefix, found, suffix = text.partition(f"{{{hole}}}")
        if not found or set("{}") & set(prefix + suffix):
            raise RegistrationError(f"key template {text!r}: write exactly one {{{hole}}} and no other braces")
        if not prefix:
            raise RegistrationError(f"key template {text!r}: begin with a name of its own, such as 'order:'")
        if prefix.startswith(RESERVED) or RESERVED.startswith(prefix):
            raise RegistrationError(f"key template {text!r}: keys that begin with {RESERVED!r} are the library's own")
        return cls(prefix, suffix)

    def key(self, part: str) -> str:
        """The key with `part` in the hole."""
        return f"{self.prefix}{part}{self.suffix}"

    def part(self, key: str) -> str | None:
        """What stands in the hole of `key`; None where `key` is not of this template."""
        room = len(key) - len(self.prefix) - len(self.suffix)
        if room < 1 or not key.startswith(self.prefix) or not key.endswith(self.suffix):
            return None
        return key[len(self.prefix) : len(self.prefix) + room]

    def meets(self, other: Template) -> bool:
        """Whether some key could be of both templates.

        A key of both begins with both prefixes and ends with both suffixes, so of each pair one must contain the other;
        and where that holds, an id exists that makes them meet (`user:{id}` and `user:{id}:name` meet at `x:name`).
        """
        prefixes = self.prefix.startswith(other.prefix) or other.prefix.startswith(self.prefix)
        suffixes = self.suffix.endswith(other.suffix) or other.suffix.endswith(self.suffix)
        return prefixes and suffixes
