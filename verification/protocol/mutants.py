"""Protocols that are wrong in one respect. The search must find a bad state for each, or it would prove nothing."""

from __future__ import annotations

from verification.protocol import wrong
from verification.protocol.families import Variant

MUTANTS = (
    Variant(
        "payload-unless-newer",
        "an event's payload is written unless something newer is known",
        "writes",
        wrong.PayloadUnlessNewer(),
    ),
    Variant(
        "payload-over-marker",
        "an event's payload is written over any known older version, a marker included",
        "writes",
        wrong.PayloadOverMarker(),
    ),
    Variant(
        "payload-over-unknown-age",
        "an event's payload is written over a value of unknown version",
        "writes",
        wrong.PayloadOverUnknownAge(),
    ),
    Variant(
        "unversioned-fill-keeps-version",
        "a fill without version leaves M.version as it was",
        "writes",
        wrong.UnversionedFillKeepsVersion(),
    ),
    Variant(
        "deletion-with-last-version",
        "a deletion is published with the last version",
        "writes",
        publishing=wrong.DeletionWithLastVersion(),
    ),
    Variant(
        "unraised-version",
        "a change that did not raise the version is published with it",
        "writes",
        publishing=wrong.UnraisedVersion(),
    ),
    Variant(
        "re-creation-restarts",
        "re-creation begins with version 1 again",
        "writes",
        publishing=wrong.RestartingVersions(),
    ),
    Variant("blind-fill", "an event deletes K, a reader that missed sets it", "writes", wrong.BlindFill()),
    Variant("counted-leases", "leases are numbered by a counter in Redis", "writes", wrong.CountedLeases()),
    Variant("marker-only", "fills are compared with M.version only, there is no lease", "writes", wrong.MarkerOnly()),
    Variant("change-keeps-lease", "a versioned change does not drop the lease", "writes", wrong.ChangeKeepsLease()),
    Variant("change-keeps-absent", "a versioned change leaves 'known absent'", "writes", wrong.ChangeKeepsAbsent()),
    Variant("invalidate-keeps-meta", "an invalidation deletes K alone", "writes", wrong.InvalidateKeepsMeta()),
    Variant(
        "absent-without-lease", "'known absent' is set without the lease", "writes", wrong.AbsentFillWithoutLease()
    ),
    Variant(
        "join-without-acquire",
        "a reader joins a load of its process without having received its nonce",
        "writes",
        rules=(("join_without_acquire", True),),
    ),
    Variant(
        "resend-acquire",
        "an acquire is sent again under the same nonce, and the first one arrives late",
        "writes",
        rules=(("resend_acquire", True),),
    ),
    Variant("expire-keeps-lease", "a deadline does not drop the lease", "endings", wrong.LeaseOutlivesExpire()),
    Variant(
        "lease-outlives-deadline", "a lease goes on when the deadline passes", "endings", wrong.LeaseOutlivesDeadline()
    ),
    Variant(
        "later-deadline-stands", "of two deadlines the last to arrive counts", "foreign", wrong.LaterDeadlineStands()
    ),
    Variant("expire-leaves-ttl", "a deadline ahead does not shorten K's TTL", "endings", wrong.ExpireLeavesTtl()),
    Variant(
        "writes-forget-deadline",
        "fills and changes do not respect M's deadline",
        "endings",
        wrong.DeadlineForgottenByWrites(),
    ),
    Variant(
        "writes-forget-own-end",
        "fills and changes do not respect the value's own end",
        "endings",
        wrong.OwnEndForgotten(),
    ),
    Variant("plain-get", "a shared key is read without its deadline", "foreign", rules=(("until", False),)),
    Variant(
        "invalidate-forgets-deadline",
        "an invalidation takes the deadline with it",
        "foreign",
        wrong.InvalidateForgetsDeadline(),
    ),
    Variant(
        "search-lets-fills-land",
        "a product change deletes the cached searches, but not the leases of searches in flight",
        "renames",
        wrong.InvalidateKeepsLease(),
    ),
    Variant(
        "search-only-new-name",
        "only searches found in the new name are invalidated",
        "renames",
        publishing=wrong.OnlyNewName(),
    ),
    Variant(
        "search-only-old-name",
        "only searches found in the old name are invalidated",
        "renames",
        publishing=wrong.OnlyOldName(),
    ),
    Variant("drop-in-one-pass", "a view is dropped with one SCAN pass", "drops", passes=1),
    Variant("drop-without-pass", "a view is dropped with no pass at all", "drops", passes=0),
    Variant("drop-values-only", "a view is dropped by its values, without its metadata", "drops", metadata=False),
    Variant(
        "fill-ignores-version",
        "a fill under the lease succeeds although M knows a newer version",
        "lagging",
        wrong.FillIgnoresVersion(),
    ),
    Variant(
        "stale-returned",
        "a value whose fill was refused as stale is returned",
        "lagging",
        rules=(("return_stale", True),),
    ),
)
