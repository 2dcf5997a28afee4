"""The events that upstream services publish."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from cachekeeper.model.event_field_types import Id, Moment, Name
from cachekeeper.model.events import Event


class UserUpdated(Event):
    """A user's document changed.

    Attributes:
        user_id: the user's id.
        name: the name after the change.
        version: the document's version, if this change raised it. A document without versions works, too, at the cost
            of a load.
    """

    type: Literal["user.updated"] = "user.updated"
    user_id: Id
    name: Name


class UserDeleted(Event):
    """A user's document was deleted.

    The event never has a version: a document that is created again must not look older than the deletion.

    Attributes:
        user_id: the user's id.
    """

    type: Literal["user.deleted"] = "user.deleted"
    user_id: Id
    version: None = None


class UserLoggedOut(Event):
    """A session has ended, a token is void, or both.

    Attributes:
        session_id: the session that ended.
        token_id: the token that must not be accepted any more.
        token_expires_at: when the token expires by itself; the block lasts a little longer. None: it never expires, so
            the block stays forever.
        user_id: the user's id, for information only.
    """

    type: Literal["user.logged_out"] = "user.logged_out"
    session_id: Id | None = None
    token_id: Id | None = None
    token_expires_at: Moment | None = None
    user_id: Id | None = None

    secret_fields: ClassVar[frozenset[str]] = frozenset({"session_id", "token_id"})

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if self.session_id is None and self.token_id is None:
            raise PydanticCustomError("cachekeeper", "give a session_id, a token_id or both")
        if self.token_id is None and self.token_expires_at is not None:
            raise PydanticCustomError("cachekeeper", "token_expires_at is given without token_id: give token_id, too")
        return self


class ProductChanged(Event):
    """A product was created, changed or deleted.

    Attributes:
        product_id: the product's id.
        name: the name after the change; not needed when deleted.
        previous_name: the name before the change. Equal to `name`: not renamed. None: the product is new. Omitted: not
            known, and then every cached search is dropped.
        deleted: whether the product was deleted. Then `name` or `previous_name`, whichever is given, was its name.
    """

    type: Literal["product.changed"] = "product.changed"
    product_id: Id
    name: Name | None = None
    previous_name: Name | None = None
    deleted: bool = False

    @model_validator(mode="after")
    def _has_a_name(self) -> Self:
        if self.name is None and not self.deleted:
            raise PydanticCustomError("cachekeeper", "name is missing: give it, unless deleted is true")
        return self
