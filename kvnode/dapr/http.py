"""Dapr's state API over HTTP, as one ASGI application.

Decides: which path and method mean what, where in a request its words stand, and what success looks like.  A path that
means nothing is answered as Dapr's service invocation does without an application to call.  Leaves to others: what
operations do (`state`), the bodies (`bodies`), the paths (`paths`), the answers' form (`answers`), limits on
connections (`guard`), pages for people (whatever application is given as `pages`).

The way of a request is short on purpose: one coroutine from the server to the cluster, no middleware, no objects for
request and response.  The path is taken escaped (`raw_path`), because Dapr routes on that.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from kvnode.dapr import answers, bodies, errors
from kvnode.dapr.about import About
from kvnode.dapr.admission import Admission
from kvnode.dapr.answers import NO_CONTENT, Answer
from kvnode.dapr.bodies import Item
from kvnode.dapr.errors import Call, StateError
from kvnode.dapr.health import Quorums
from kvnode.dapr.options import Delete, Operation, Said, Save, ttl_of
from kvnode.dapr.paths import decoded, parts_of, query_of
from kvnode.dapr.request import SAID_NOTHING, ClientGone, Request, TooLarge
from kvnode.dapr.settings import GatewaySettings
from kvnode.dapr.state import PAGE_LIMIT, States, StateStore

BINARY = b"application/octet-stream"
SMALL_ANSWER_BYTES = 64 * 1024
"""Answers up to this size are not counted: a connection's buffers may hold as much anyway."""
_HEADERS = frozenset({
    b"content-length", b"transfer-encoding", b"content-type", b"if-match", b"if-none-match", b"consistency",
    b"concurrency", b"dapr-api-token",
})  # fmt: skip
_WRITES = frozenset({"POST", "PUT"})
NO_ROUTE = answers.of_code(
    404,
    "ERR_DIRECT_INVOKE",
    "failed getting app id either from the URL path or the header dapr-app-id",
)

_log = logging.getLogger("kvnode.dapr")


class _Route(NamedTuple):
    """What answers a request for state, and as what its failures are reported."""

    handler: Callable[[Request, StateStore, str], Awaitable[Answer]]
    call: Call | None


class Api:
    """The application.  It answers from its first moment on; the cluster is served from `begin` to `end`."""

    def __init__(
        self,
        settings: GatewaySettings,
        about: About,
        stop: Callable[[], None],
        pages: ASGIApp | None = None,
        admission: Admission | None = None,
    ) -> None:
        """`stop` ends the process; `pages` serves what is not the API (`/docs`), and without it nothing does;
        `admission` is what other servers of the process hold as well.
        """
        self._settings = settings
        self._admission = admission or Admission(settings.bounds)
        self._about = about
        self._stop = stop
        self._pages = pages
        self._token = settings.token.encode()
        self._states: States | None = None
        self._quorums: Quorums | None = None
        save = _Route(self._save, Call.SAVE)
        self._save_bytes_route = _Route(self._save_bytes, Call.SAVE)
        self._query_route = _Route(self._query, None)
        self._of_store = {"POST": save, "PUT": save, "GET": _Route(self._list, Call.LIST)}
        self._of_key = {"GET": _Route(self._get, Call.GET), "DELETE": _Route(self._delete, Call.DELETE)}
        self._of_word = {
            "bulk": _Route(self._bulk_get, Call.BULK_GET),
            "transaction": _Route(self._transact, Call.TRANSACTION),
        }

    def begin(self, states: States, quorums: Quorums) -> None:
        """Serve the cluster from now on."""
        self._states, self._quorums = states, quorums

    def end(self) -> None:
        """Be unhealthy from now on, so that nobody new comes; requests are still answered."""
        self._quorums = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise NotImplementedError(f"the gateway speaks HTTP, not {scope['type']}")
        parts = parts_of(scope["raw_path"].decode("latin-1"))
        if self._pages is not None and not (parts and parts[0].startswith("v1.0")):
            await self._pages(scope, receive, send)
            return
        request = Request(scope, receive, self._admission)
        try:
            answer = await self._told(request, parts)
            if answer is not None:
                await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
                await send({"type": "http.response.body", "body": answer.body})
        finally:
            request.release()

    async def _told(self, request: Request, parts: list[str]) -> Answer | None:
        """Return the answer to a request, whatever happens; None if nobody waits for it."""
        try:
            answer = await self._answer(request, parts)
            if len(answer.body) > SMALL_ANSWER_BYTES and answer.status == 200:
                request.hold(len(answer.body))
            return answer
        except StateError as error:
            return answers.of_error(error)
        except TooLarge:
            # The connection stays open, and the server drops what still comes: a client that is cut off while it
            # sends would not see the answer.
            text = f"the body has more than the {self._settings.bounds.body_bytes_max} bytes that are taken: send less"
            return answers.of_error(errors.malformed(text))
        except ClientGone:
            return None
        except Exception:
            method, path = request.scope["method"], request.scope["raw_path"]
            _log.exception("a request failed for a reason that nobody foresaw: %s %.200r", method, path)
            return _defect()

    async def _answer(self, request: Request, parts: list[str]) -> Answer:
        headers = request.headers
        for name, text in request.scope["headers"]:
            if name in _HEADERS and name not in headers:
                headers[name] = text
        is_health = parts[1:2] == ["healthz"]
        if self._token and not is_health and not hmac.compare_digest(headers.get(b"dapr-api-token", b""), self._token):
            return answers.of_text(401, "invalid api token")
        method: str = request.scope["method"]
        route = self._route(method, parts, headers)
        request.query = query_of(request.scope["query_string"])
        if is_health:
            return await self._other(method, parts, request)
        if route is None:
            request.admit()
            return await self._other(method, parts, request)
        request.call = route.call
        request.admit()
        if method not in _WRITES and (b"content-length" in headers or b"transfer-encoding" in headers):
            await request.body()  # it says nothing; but a request that does not come whole is not done
        if self._states is None:
            raise errors.not_connected(route.call)
        store = self._states.store(decoded(parts[2]))
        return await route.handler(request, store, decoded(parts[3]) if len(parts) == 4 else "")

    def _route(self, method: str, parts: list[str], headers: Mapping[bytes, bytes]) -> _Route | None:
        """Return what answers requests for state, or None if this is not one."""
        count = len(parts)
        if count < 3 or parts[1] != "state":
            return None
        if parts[0] != "v1.0":
            is_query = parts[0] == "v1.0-alpha1" and count == 4 and parts[3] == "query" and method in _WRITES
            return self._query_route if is_query else None
        if count == 3:
            return self._of_store.get(method)
        if count > 4:
            return None
        if method not in _WRITES:
            return self._of_key.get(method)
        is_binary = headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == BINARY
        if parts[3] in self._of_word:
            if is_binary:  # a value for the key of this name, or a bulk call by somebody who names no better type?
                raise errors.malformed(f"{parts[3]} takes JSON; to write bytes under this key, escape its first letter")
            return self._of_word[parts[3]]
        return self._save_bytes_route if is_binary else None

    # -- state

    async def _get(self, request: Request, store: StateStore, key: str) -> Answer:
        said = request.said()
        return answers.of_entry(await store.get(key, said.consistency_of(said.metadata)))

    async def _bulk_get(self, request: Request, store: StateStore, key: str) -> Answer:
        said, asked = request.said(), bodies.bulk_get_of(await request.body())
        consistency = said.consistency_of(said.over(asked.metadata))
        entries = await store.get_many(asked.keys, asked.parallelism, consistency, request.read.add)
        answer = answers.of_entries(asked.keys, entries)
        request.read.let_go()  # `_told` counts the answer
        return answer

    async def _list(self, request: Request, store: StateStore, key: str) -> Answer:
        query, said = request.query, request.said()
        if said.consistency_of(said.metadata) not in (None, "eventual"):
            raise errors.malformed("a list of keys is an eventual view, and cannot be had stronger")
        limit = query.get("page_limit", "")
        if limit and not (limit.isascii() and limit.isdecimal() and len(limit) < 10):
            raise errors.malformed(f"page_limit must be a number of keys, 1 or more, not {limit!r:.80}")
        number = int(limit) if limit else PAGE_LIMIT
        keys, token = await store.keys(query.get("prefix", ""), number, query.get("page_token", ""))
        return answers.of_json(200, {"keys": keys, "next_page_token": token})

    async def _save(self, request: Request, store: StateStore, key: str) -> Answer:
        said = request.said()
        request.check_conditions()
        saves = [_save_of(item, said, store.name, Call.SAVE) for item in bodies.items_of(await request.body())]
        if len(saves) == 1:
            return answers.of_etag(await store.save(saves[0]))
        results = await store.save_many(saves)
        failure = errors.joined(Call.SAVE, store.name, [save.key for save in saves], results)
        if failure is not None:
            raise failure
        return NO_CONTENT

    async def _save_bytes(self, request: Request, store: StateStore, key: str) -> Answer:
        said, metadata = request.said(), request.said().metadata
        request.check_conditions(may_match=True)
        save = Save(
            key,
            await request.body(),
            request.etag(),
            said.concurrency_of(metadata),
            said.consistency_of(metadata),
            ttl_of(metadata, Call.SAVE, store.name, key),
        )
        return answers.of_etag(await store.save(save))

    async def _delete(self, request: Request, store: StateStore, key: str) -> Answer:
        said, metadata = request.said(), request.said().metadata
        request.check_conditions(may_match=True)
        etag, concurrency = request.etag(), said.concurrency_of(metadata)
        await store.delete(Delete(key, etag, concurrency, said.consistency_of(metadata)))
        return NO_CONTENT

    async def _transact(self, request: Request, store: StateStore, key: str) -> Answer:
        said = request.said()
        request.check_conditions()
        steps = bodies.steps_of(await request.body())
        await store.transact([_operation_of(step, said, store.name) for step in steps])
        return NO_CONTENT

    async def _query(self, request: Request, store: StateStore, key: str) -> Answer:
        raise errors.no_query(store.name)

    # -- all but state

    async def _other(self, method: str, parts: list[str], request: Request) -> Answer:
        if parts[:1] != ["v1.0"]:
            return NO_ROUTE
        match method, parts[1:]:
            case "GET", ["healthz"]:
                return self._health(request)
            case "GET", ["healthz", "outbound"]:
                return await self._outbound()
            case "GET", ["metadata"]:
                return answers.of_json(200, self._about.facts())
            case "PUT", ["metadata", name]:
                self._about.set(decoded(name), _utf8(await request.body()))
                return NO_CONTENT
            case "POST", ["shutdown"]:
                return self._shutdown()
        return NO_ROUTE

    def _health(self, request: Request) -> Answer:
        if self._quorums is None:
            return answers.of_code(500, "ERR_HEALTH_NOT_READY", "dapr is not ready")
        if request.query.get("appid", self._settings.app_id) != self._settings.app_id:
            return answers.of_code(500, "ERR_HEALTH_APPID_NOT_MATCH", "dapr app-id does not match")
        return NO_CONTENT

    async def _outbound(self) -> Answer:
        missing = "the gateway is not serving its cluster" if self._quorums is None else await self._quorums.missing()
        if missing:
            text = f"dapr outbound is not ready: {missing}"
            return answers.of_code(500, "ERR_OUTBOUND_HEALTH_NOT_READY", text)
        return NO_CONTENT

    def _shutdown(self) -> Answer:
        if not self._settings.allow_shutdown:
            raise errors.no_shutdown()
        self._stop()
        return NO_CONTENT


def _save_of(item: Item, said: Said, store: str, call: Call) -> Save:
    key, value, etag, metadata, concurrency, consistency = item
    if said is SAID_NOTHING and not metadata and not concurrency and not consistency:
        return Save(key, value, etag)
    metadata = said.over(metadata)
    return Save(
        key,
        value,
        etag,
        said.concurrency_of(metadata, concurrency),
        said.consistency_of(metadata, consistency),
        ttl_of(metadata, call, store, key),
    )


def _operation_of(step: bodies.Step, said: Said, store: str) -> Operation:
    save = _save_of(step.request, said, store, Call.TRANSACTION)
    if step.operation == "upsert":
        return save
    if step.operation == "delete":
        return Delete(save.key, save.etag, save.concurrency, save.consistency)
    raise errors.unknown_operation(step.operation)


def _utf8(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise errors.malformed(f"the body is not UTF-8: {error}") from error


def _defect() -> Answer:
    text = "the gateway has a defect, which its log describes; whether a write was applied is not known"
    return answers.of_code(500, "ERR_INTERNAL", text, [(b"x-outcome", b"unknown")])
