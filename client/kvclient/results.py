"""What the answer to a strong mutation becomes: an item, or the error that says who was faster.

Decides: that every version which passes is noted, so that later eventual writes of this client rest on it (section 4a).
Leaves to others: how the answer was got (`mutations`).
"""

from __future__ import annotations

from kvclient.connection import Answer
from kvclient.errors import EtagMismatch
from kvclient.item import Item, item_of_body
from kvclient.mutations import Change
from kvclient.session import Seen
from kvclient.wire.messages import APPLIED, CHECK_ABSENT
from kvclient.wire.values import VERSION_BYTES, Version


def item_applied(seen: Seen, key: str, change: Change, answer: Answer, issued_at_ms: int) -> Item:
    """Return the item that a strong put made, with the times that the replicas compute (R63).  Raises EtagMismatch."""
    version = version_applied(seen, key, change, answer)
    expires_ms = issued_at_ms + change.ttl_ms if change.ttl_ms else 0
    return Item(key, version, change.content, expires_ms, issued_at_ms)


def version_applied(seen: Seen, key: str, change: Change, answer: Answer) -> Version:
    """Return the version that a strong mutation made; empty if nothing changed.  Raises EtagMismatch."""
    if answer[0] != APPLIED:
        raise mismatch(seen, key, change, answer)
    version = Version(answer[2])
    if version:
        seen.note(change.name, version)
    return version


def mismatch(seen: Seen, key: str, change: Change, answer: Answer) -> EtagMismatch:
    """Return what a CONFLICT says, with the item that stands there."""
    body: bytes = answer[2]
    current = item_of_body(key, body)
    if body:
        seen.note(change.name, Version(body[:VERSION_BYTES]))
    store = change.name.partition(b"\0")[0].decode()
    if change.check == CHECK_ABSENT and current is not None:
        return EtagMismatch(
            f"{key!r:.80} in store {store!r} exists already (ETag {current.etag}): read it and decide again", current
        )
    stands = "is absent" if current is None else f"has the ETag {current.etag}"
    wanted = f"not {change.etag}" if change.etag else "which fails a check of this write"
    return EtagMismatch(f"{key!r:.80} in store {store!r} {stands}, {wanted}: read it and decide again", current)
