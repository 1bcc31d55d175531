"""Requests with an effect, from their arguments to their definite answer: the strong path and the eventual one.

Decides: what a mutation carries (operation id, times, mark, token, stamp) and when its operation is closed in the
session. A call that ends in any other way than a definite answer, cancellation included, leaves its operation open
(`session`). Leaves to others: what the caller gets (`store`) and what happens after a first failure (`retries`).
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from kvclient import retries
from kvclient.cluster import Cluster
from kvclient.connection import UNSENT, Answer
from kvclient.errors import KvError, OutcomeUnknown
from kvclient.session import OperationId, operation_id_of
from kvclient.wire.messages import APPLIED, CONFLICT, MUTATE, STAMP, STAMPED, WRITE


class Change(NamedTuple):
    """What a strong mutation does to which name."""

    name: bytes
    action: int
    check: int
    etag: str
    content: bytes
    ttl_ms: int
    w: int = 0
    """Acknowledgements to wait for, if more than the quorum (R27)."""


async def mutate(
    cluster: Cluster, change: Change, timeout_s: float, operation_id: str | OperationId | None = None
) -> tuple[Answer, int]:
    """Run one strong mutation; return its answer (APPLIED or CONFLICT) and its time of issue in server milliseconds.

    With `operation_id`, run that operation, or ask for its outcome if it ran.
    """
    operation = None if operation_id is None else operation_id_of(operation_id)
    deadline_s = cluster.loop.time() + timeout_s
    if operation is not None:
        is_text = isinstance(operation_id, str)
        answer = await _mutate_named(cluster, change, deadline_s, operation, is_text=is_text)
        return answer, operation.issued_at_ms
    name, action, check, etag, content, ttl_ms, w = change
    link = cluster.pick(name) or await retries.Tour(cluster, name, deadline_s).next()
    now_s = cluster.loop.time()
    session = cluster.session
    sequence = session.begin(name)
    issued_at_ms = link.server_ms(now_s)
    deadline_ms = issued_at_ms + max(1, round((deadline_s - now_s) * 1000))
    message = [MUTATE, 0, name, session.id, sequence, 1, session.mark(name), issued_at_ms, deadline_ms]
    message += (action, check, etag, content, ttl_ms, w)
    try:
        answer = await link.ask(message, deadline_s, len(content))
        if answer[0] != APPLIED and answer[0] != CONFLICT:
            text = str(OperationId(session.id, sequence, issued_at_ms, deadline_ms))
            again = retries.Settlement(
                cluster, message, deadline_s, may_repeat=True, operation_id=text, session=session
            )
            answer = await again.run(link, answer, APPLIED, CONFLICT)
    except BaseException as error:
        if isinstance(error, KvError) and error.outcome == "not applied":
            session.end(name, sequence)
        else:
            cluster.retire(session)
        raise
    session.end(name, sequence)
    return answer, issued_at_ms


async def _mutate_named(
    cluster: Cluster, change: Change, deadline_s: float, operation: OperationId, *, is_text: bool
) -> Answer:
    """Run an operation whose id the caller named, or ask for its outcome.

    Unless this client issued the id and it is certain that nobody sent it (`IssuedIds`), it may have been sent before,
    by anyone: then it begins as a second attempt (whose refusal is recorded, R23), and a refusal of this call alone
    never says that the operation was not applied.  The mark is 0 either way.
    """
    await _wait_for_the_first(cluster, operation, deadline_s)
    attempt = cluster.issued.begin(operation, is_text=is_text)
    name, action, check, etag, content, ttl_ms, w = change
    message = [MUTATE, 0, name, operation.session, operation.sequence, attempt or 2, 0, *operation[2:]]
    message += (action, check, etag, content, ttl_ms, w)
    again = retries.Settlement(
        cluster, message, deadline_s, may_repeat=True, operation_id=str(operation), is_named=not attempt
    )
    next_attempt = 0
    try:
        try:
            link = cluster.pick(name) or await retries.Tour(cluster, name, deadline_s).next()
            answer = await link.ask(message, deadline_s, len(content))
        except KvError as error:
            if attempt:
                raise
            raise again.unknown(error) from error
        return await again.run(link, answer, APPLIED, CONFLICT)
    except KvError as error:
        if error.outcome == "not applied":
            next_attempt = again.attempt + 1
        raise
    finally:
        if attempt:
            cluster.issued.end(operation, next_attempt)


async def _wait_for_the_first(cluster: Cluster, operation: OperationId, deadline_s: float) -> None:
    """Wait while another call of this client is the only one that sent this id.  Raises OutcomeUnknown."""
    while (ending := cluster.issued.in_flight(operation)) is not None:
        await asyncio.wait((ending,), timeout=max(0.0, deadline_s - cluster.loop.time()))
        if not ending.done():
            raise OutcomeUnknown(
                f"another call with the operation id {operation} has not ended: ask again later", str(operation)
            )


async def write(
    cluster: Cluster, name: bytes, w: int, content: bytes, ttl_ms: int, timeout_s: float, *, exactly_once: bool
) -> Answer:
    """Run one eventual write (empty content: a delete) and return its APPLIED.

    Without `exactly_once` it is sent once: what is lost is OutcomeUnknown.  With it, a stamp is fetched first, and the
    same stamp goes into every attempt (R25).
    """
    loop = cluster.loop
    deadline_s = loop.time() + timeout_s
    token = cluster.seen.token(name)
    stamp = await _stamp(cluster, name, deadline_s, token) if exactly_once else b""
    link = cluster.pick(name)
    timeout_ms = max(1, round((deadline_s - loop.time()) * 1000))
    message = [WRITE, 0, name, w, timeout_ms, content, ttl_ms, token, stamp]
    answer = UNSENT if link is None else await link.ask(message, deadline_s, len(content), patient=not stamp)
    if answer[0] == APPLIED:
        return answer
    again = retries.Settlement(cluster, message, deadline_s, may_repeat=bool(stamp))
    return await again.run(link, answer, APPLIED)


async def _stamp(cluster: Cluster, name: bytes, deadline_s: float, token: bytes) -> bytes:
    timeout_ms = max(1, round((deadline_s - cluster.loop.time()) * 1000))
    message = [STAMP, 0, name, timeout_ms, token]
    answer = await retries.read(cluster, name, message, STAMPED, deadline_s, None, UNSENT)
    return bytes(answer[2])
