"""Key templates, the metadata key beside each key, and the check that no key belongs to two templates."""

from __future__ import annotations

from dataclasses import dataclass

from cachekeeper.errors import InvalidText, RegistrationError

MAX_TEXT_BYTES = 512
RESERVED = "cachekeeper:"


def meta_key(key: str) -> str:
    """The key of the metadata of `key`. Its hash tag keeps both keys in one Cluster slot."""
    return f"{{{key}}}:meta"


def key_of_meta(key: str) -> str:
    """The key whose metadata is at `key`; `key` itself if it is not a metadata key."""
    return key[1 : -len("}:meta")] if key.startswith("{") and key.endswith("}:meta") else key


def check_text(value: object, field: str = "text") -> str:
    """Check a search text and return it.

    Raises:
        InvalidText: it is not text, is empty, is longer than 512 bytes in UTF-8, or contains NUL or lone surrogates.
    """
    if not isinstance(value, str):
        raise InvalidText(field, f"must be text, got {type(value).__name__}")
    if not value:
        raise InvalidText(field, "must not be empty")
    if "\0" in value:
        raise InvalidText(field, "must not contain a NUL character")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidText(field, "must be valid Unicode, without lone surrogates") from None
    if size > MAX_TEXT_BYTES:
        raise InvalidText(field, f"must be at most {MAX_TEXT_BYTES} bytes in UTF-8, got {size}")
    return value


@dataclass(frozen=True, slots=True)
class Template:
    """A key with one placeholder (its hole), such as `user:{id}:name`.

    Attributes:
        prefix: the text before the hole; never empty.
        suffix: the text after the hole.
    """

    prefix: str
    suffix: str

    @classmethod
    def of(cls, text: str, hole: str) -> Template:
        """Read the template `text` with the one hole `{hole}`.

        Raises:
            RegistrationError: `text` has no hole or several holes, other braces, nothing before the hole, or a
                reserved prefix.
        """
        prefix, found, suffix = text.partition(f"{{{hole}}}")
        if not found or set("{}") & set(prefix + suffix):
            raise RegistrationError(f"key template {text!r}: write exactly one {{{hole}}} and no other braces")
        if not prefix:
            raise RegistrationError(f"key template {text!r}: begin it with a prefix of its own, such as 'order:'")
        if prefix.startswith(RESERVED) or RESERVED.startswith(prefix):
            raise RegistrationError(
                f"key template {text!r}: keys that begin with {RESERVED!r} are reserved; choose another prefix"
            )
        return cls(prefix, suffix)

    def key(self, part: str) -> str:
        """The key with `part` in the hole."""
        return f"{self.prefix}{part}{self.suffix}"

    def part(self, key: str) -> str | None:
        """The text in the hole of `key`; None if `key` does not match this template."""
        room = len(key) - len(self.prefix) - len(self.suffix)
        if room < 1 or not key.startswith(self.prefix) or not key.endswith(self.suffix):
            return None
        return key[len(self.prefix) : len(self.prefix) + room]

    def meets(self, other: Template) -> bool:
        """Whether a key can match both templates.

        Such a key begins with both prefixes and ends with both suffixes. So one prefix must begin with the other, and
        one suffix must end with the other. Where that holds, an id exists for which both templates give the same key:
        `user:{id}` with the id `x:name`, and `user:{id}:name` with the id `x`.
        """
        prefixes = self.prefix.startswith(other.prefix) or other.prefix.startswith(self.prefix)
        suffixes = self.suffix.endswith(other.suffix) or other.suffix.endswith(self.suffix)
        return prefixes and suffixes
