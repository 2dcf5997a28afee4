"""The outbox: store an event together with its change, in one MongoDB transaction.

    from producers import UserUpdated, outbox

    with client.start_session() as session, session.start_transaction():
        db.users.update_one({"_id": 42}, {"$set": {"name": "Ada"}, "$inc": {"version": 1}}, session=session)
        outbox.add(db, session, UserUpdated(user_id="42", name="Ada", version=8))

`cachekeeper relay` publishes them. Storing needs no broker.
"""

from cachekeeper.relays.outbox import Lag, add, outbox_lag

__all__ = ["Lag", "add", "outbox_lag"]
