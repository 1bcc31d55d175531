"""Dapr's state API over HTTP against a real cluster: what succeeds, and what it looks like."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

BINARY = {"content-type": "application/octet-stream"}


def code(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/json"
    return response.status_code, response.json()["errorCode"]


# -- save and get


@pytest.mark.parametrize(
    "text",
    ["1", '"text"', "null", "[]", '{"b": 1.0,  "a":12345678901234567890123, "<&>": "é"}', "1e5", "9" * 5000],
)
def test_a_value_comes_back_to_the_byte(http: Any, key: str, text: str) -> None:
    saved = http.post("/v1.0/state/statestore", content=f'[{{"key":"{key}","value":{text}}}]'.encode())
    assert (saved.status_code, saved.content) == (204, b"")
    read = http.read(key)
    assert (read.status_code, read.content) == (200, text.encode())
    assert read.headers["content-type"] == "application/json"
    assert read.headers["etag"] == saved.headers["etag"]
    assert '"' not in read.headers["etag"]
    assert "metadata.ttlexpiretime" not in read.headers


def test_what_is_missing_is_204_with_nothing(http: Any, key: str) -> None:
    read = http.read(key)
    assert (read.status_code, read.content) == (204, b"")
    assert "etag" not in read.headers


def test_an_etag_changes_with_every_write(http: Any, key: str) -> None:
    etags = {http.save({"key": key, "value": 1}).headers["etag"] for _ in range(5)}
    assert len(etags) == 5


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_put_is_post(http: Any, key: str, method: str) -> None:
    for path, body, status in (
        ("", [{"key": key, "value": 1}], 204),
        ("/bulk", {"keys": [key]}, 200),
        ("/transaction", {"operations": []}, 204),
    ):
        assert http.request(method, f"/v1.0/state/statestore{path}", json=body).status_code == status


def test_nothing_to_save_is_no_mistake(http: Any) -> None:
    for body in ("[]", "null", " [] "):
        assert http.post("/v1.0/state/statestore", content=body).status_code == 204


def test_several_items_are_each_saved(http: Any, key: str) -> None:
    saved = http.save(*({"key": f"{key}{n}", "value": n} for n in range(300)))
    assert (saved.status_code, saved.content) == (204, b"")
    bulk = http.post("/v1.0/state/statestore/bulk", json={"keys": [f"{key}{n}" for n in range(300)]}).json()
    assert [item["data"] for item in bulk] == list(range(300))


def test_the_old_how_to_works_as_it_is_written(http: Any, key: str) -> None:
    """A body that is a string which holds the array, and options as headers."""
    text = json.dumps([{"key": key, "value": {"a": 1}}])
    headers = {"consistency": "strong", "concurrency": "first-write"}
    assert http.post("/v1.0/state/statestore", json=text, headers=headers).status_code == 204
    assert http.post("/v1.0/state/statestore", json=text, headers=headers).status_code == 409
    assert http.read(key, headers={"consistency": "strong"}).json() == {"a": 1}


def test_a_missing_value_is_null(http: Any, key: str) -> None:
    assert http.save({"key": key}).status_code == 204
    assert http.read(key).content == b"null"


# -- bytes


@pytest.mark.parametrize("data", [b"", b"\x00\xff\xfe", b'{"a": 1}', b"x" * 1_000_000])
def test_bytes_come_back_as_bytes(http: Any, key: str, data: bytes) -> None:
    saved = http.put(f"/v1.0/state/statestore/{key}", content=data, headers=BINARY)
    assert saved.status_code == 204
    read = http.read(key)
    assert (read.status_code, read.content) == (200, data)
    assert read.headers["content-type"] == "application/octet-stream"
    assert read.headers["etag"] == saved.headers["etag"]


def test_bytes_have_every_option_that_json_has(http: Any, key: str) -> None:
    path = f"/v1.0/state/statestore/{key}"
    first = {"concurrency": "first-write", "consistency": "strong", "metadata.ttlInSeconds": "100"}
    saved = http.post(path, content=b"1", headers=BINARY, params=first)
    assert saved.status_code == 204
    assert "metadata.ttlexpiretime" in http.read(key).headers
    assert code(http.post(path, content=b"2", headers=BINARY, params=first)) == (409, "ERR_STATE_SAVE")
    for etag, status in (("x", 409), (saved.headers["etag"], 204), (saved.headers["etag"], 409)):
        assert http.post(path, content=b"3", headers={**BINARY, "if-match": etag}).status_code == status


def test_without_their_content_type_bytes_have_no_route(http: Any, key: str) -> None:
    assert code(http.put(f"/v1.0/state/statestore/{key}", json=1)) == (404, "ERR_DIRECT_INVOKE")
    assert http.read(key).status_code == 204


# -- every row of the table of ETags (docs: none/last-write, none/first-write, etag/any)


@pytest.mark.parametrize("consistency", [None, "eventual", "strong"])
@pytest.mark.parametrize("concurrency", [None, "last-write", "first-write"])
def test_every_row_of_the_etag_table_for_saves(http: Any, key: str, concurrency: Any, consistency: Any) -> None:
    options = {"concurrency": concurrency, "consistency": consistency}

    def save(value: int, etag: str | None = None) -> httpx.Response:
        saved: httpx.Response = http.save({"key": key, "value": value, "etag": etag, "options": options})
        if saved.status_code != 204:
            assert code(saved) == (409, "ERR_STATE_SAVE")
            assert "possible etag mismatch" in saved.json()["message"]
            assert saved.headers["x-outcome"] == "not-applied"
        return saved

    assert save(0, "unparsable").status_code == 409  # nothing is inserted over a missing key
    assert http.read(key, params={"consistency": "strong"}).status_code == 204
    etag = save(1).headers["etag"]
    again = save(2)
    if concurrency == "first-write":
        assert again.status_code == 409
    else:
        etag = again.headers["etag"]
    assert save(3, "unparsable").status_code == 409
    newer = save(4, etag).headers["etag"]
    assert save(5, etag).status_code == 409  # under last-write too
    read = http.read(key, params={"consistency": "strong"})
    assert (read.json(), read.headers["etag"]) == (4, newer)


@pytest.mark.parametrize("concurrency", [None, "last-write", "first-write"])
def test_every_row_of_the_etag_table_for_deletes(http: Any, key: str, concurrency: Any) -> None:
    params = {"concurrency": concurrency} if concurrency else {}

    def delete(etag: str | None = None) -> int:
        headers = {} if etag is None else {"if-match": etag}
        deleted = http.delete(f"/v1.0/state/strong/{key}", params=params, headers=headers)
        if deleted.status_code != 204:
            assert code(deleted) == (409, "ERR_STATE_DELETE")
            assert deleted.json()["message"].startswith(f"failed deleting state with key {key}: possible etag mismatch")
        return int(deleted.status_code)

    assert delete() == 204  # that it is absent is no failure
    assert delete("unparsable") == 409
    etag = http.save({"key": key, "value": 1}, store="strong").headers["etag"]
    assert delete("unparsable") == 409
    assert delete(etag) == 204
    assert http.read(key, store="strong").status_code == 204
    http.save({"key": key, "value": 1}, store="strong")
    assert delete("") == (409 if concurrency == "first-write" else 204)  # an empty ETag is none


def test_an_etag_in_quotes_is_the_same_etag(http: Any, key: str) -> None:
    etag = http.save({"key": key, "value": 1}).headers["etag"]
    for header, status in ((f'"{etag}x"', 409), (f'W/"{etag}"', 409), ("*", 409), (f'"{etag}"', 204)):
        assert http.delete(f"/v1.0/state/statestore/{key}", headers={"if-match": header}).status_code == status


def test_an_expired_key_is_absent_for_a_create(http: Any, key: str) -> None:
    item = {"key": key, "value": 1, "options": {"concurrency": "first-write"}}
    assert http.save({**item, "metadata": {"ttlInSeconds": "1"}}).status_code == 204
    etag = http.read(key, params={"consistency": "strong"}).headers["etag"]
    assert http.save(item).status_code == 409
    while http.read(key, params={"consistency": "strong"}).status_code == 200:
        time.sleep(0.05)
    assert http.save({"key": key, "value": 2, "etag": etag}).status_code == 409
    assert http.save(item).status_code == 204


def test_deleted_and_written_again_is_another_version(http: Any, key: str) -> None:
    etag = http.save({"key": key, "value": 1}, store="strong").headers["etag"]
    http.delete(f"/v1.0/state/strong/{key}")
    http.save({"key": key, "value": 1}, store="strong")
    assert http.save({"key": key, "value": 2, "etag": etag}, store="strong").status_code == 409


# -- where options may stand


@pytest.mark.parametrize(
    ("options", "params", "headers", "metadata", "is_create"),
    [
        ({"concurrency": "first-write"}, {}, {}, {}, True),
        ({}, {"concurrency": "first-write"}, {}, {}, True),
        ({}, {}, {"concurrency": "first-write"}, {}, True),
        ({}, {}, {}, {"concurrency": "first-write"}, True),
        ({}, {"metadata.concurrency": "first-write"}, {}, {}, True),
        ({"concurrency": "first-write"}, {"concurrency": "last-write"}, {}, {}, False),
        ({"concurrency": "last-write"}, {}, {"concurrency": "first-write"}, {}, False),
        ({}, {}, {"concurrency": "last-write"}, {"concurrency": "first-write"}, False),
        ({}, {"metadata.concurrency": "last-write"}, {}, {"concurrency": "first-write"}, False),
    ],
)
def test_options_may_stand_in_many_places_and_one_order_decides(
    http: Any, key: str, options: Any, params: Any, headers: Any, metadata: Any, is_create: bool
) -> None:
    item = {"key": key, "value": 1, "options": options, "metadata": metadata}
    assert http.save(item, params=params, headers=headers).status_code == 204
    assert http.save(item, params=params, headers=headers).status_code == (409 if is_create else 204)


@pytest.mark.parametrize("name", ["consistency", "concurrency"])
@pytest.mark.parametrize("word", ["Strong", "FIRST-WRITE", "any", "0"])
def test_an_unknown_word_is_refused_wherever_it_stands(http: Any, key: str, name: str, word: str) -> None:
    item = {"key": key, "value": 1}
    refused = [
        http.save(item, params={name: word}),
        http.save(item, headers={name: word}),
        http.save(item, params={f"metadata.{name}": word}),
        http.save({**item, "options": {name: word}}),
        http.save({**item, "metadata": {name: word}}),
        http.save(item, {**item, "options": {name: word}}),
        http.put(f"/v1.0/state/statestore/{key}", content=b"", headers=BINARY, params={name: word}),
        http.delete(f"/v1.0/state/statestore/{key}", params={name: word}),
    ]
    if name == "consistency":
        refused.append(http.read(key, params={name: word}))
        refused.append(http.read(key, params={f"metadata.{name}": word}))
        refused.append(http.post("/v1.0/state/statestore/bulk", json={"keys": [key], "metadata": {name: word}}))
    for response in refused:
        assert code(response) == (400, "ERR_MALFORMED_REQUEST")
        assert response.headers["x-outcome"] == "not-applied"
    assert http.read(key).status_code == 204


@pytest.mark.parametrize("consistency", ["eventual", "quorum", "strong"])
def test_every_consistency_is_taken_by_every_call(http: Any, key: str, consistency: str) -> None:
    params = {"consistency": consistency}
    assert http.save({"key": key, "value": 1}, params=params).status_code == 204
    assert http.read(key, params=params).json() == 1
    bulk = http.post("/v1.0/state/statestore/bulk", json={"keys": [key]}, params={"metadata.consistency": consistency})
    assert bulk.json()[0]["data"] == 1
    assert http.delete(f"/v1.0/state/statestore/{key}", params=params).status_code == 204
    assert http.read(key, params=params).status_code == 204


# -- time to live


def expires_in_s(response: httpx.Response) -> float:
    text = response.headers["metadata.ttlexpiretime"]
    moment = datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC)
    return (moment - datetime.datetime.now(datetime.UTC)).total_seconds()


def test_a_time_to_live_is_shown(http: Any, key: str) -> None:
    http.save({"key": key, "value": 1, "metadata": {"ttlInSeconds": "500"}})
    assert 450 < expires_in_s(http.read(key)) <= 500
    (item,) = http.post("/v1.0/state/statestore/bulk", json={"keys": [key]}).json()
    assert item["metadata"] == {"ttlExpireTime": http.read(key).headers["metadata.ttlexpiretime"]}
    http.save({"key": key, "value": 1, "metadata": {"ttlInSeconds": "500"}}, params={"metadata.ttlInSeconds": "50"})
    assert 0 < expires_in_s(http.read(key)) <= 50  # the query wins
    http.save({"key": key, "value": 1})
    assert "metadata.ttlexpiretime" not in http.read(key).headers  # a write without one clears it


@pytest.mark.parametrize("never", ["-1", "0", ""])
def test_never_wins_over_the_stores_default(http: Any, key: str, never: str) -> None:
    http.save({"key": key, "value": 1}, store="short")
    assert 900 < expires_in_s(http.read(key, store="short")) <= 1000
    http.save({"key": key, "value": 1, "metadata": {"ttlInSeconds": never}}, store="short")
    assert "metadata.ttlexpiretime" not in http.read(key, store="short").headers


@pytest.mark.parametrize("wrong", ["-2", "1.5", "x", "2147483648"])
def test_a_wrong_time_to_live_is_refused_and_nothing_is_written(http: Any, key: str, wrong: str) -> None:
    bad = {"key": key, "value": 1, "metadata": {"ttlInSeconds": wrong}}
    for refused in (http.save(bad), http.save({"key": key, "value": 1}, bad)):
        assert code(refused) == (500, "ERR_STATE_SAVE")
        assert "incorrect value for metadata 'ttlInSeconds'" in refused.json()["message"]
        assert refused.headers["x-outcome"] == "not-applied"
    assert http.read(key).status_code == 204


# -- bulk get


def test_a_bulk_get_answers_every_key_in_order(http: Any, key: str) -> None:
    http.post(
        "/v1.0/state/statestore", content=f'[{{"key":"{key}a","value":{{"x": 1.0}}}},{{"key":"{key}b","value":2}}]'
    )
    http.put(f"/v1.0/state/statestore/{key}c", content=b"\xff", headers=BINARY)
    keys = [f"{key}b", "missing", f"{key}a", f"{key}c", f"{key}b"]
    response = http.post("/v1.0/state/statestore/bulk", json={"keys": keys, "parallelism": 2})
    assert response.status_code == 200
    assert b'"data":{"x": 1.0}' in response.content
    b, missing, a, c, b_again = response.json()
    assert (a["key"], a["data"], a["etag"]) == (f"{key}a", {"x": 1.0}, http.read(f"{key}a").headers["etag"])
    assert missing == {"key": "missing"}
    assert b == b_again
    assert "data" not in c
    assert "get this key alone" in c["error"]
    for nothing in ({"keys": []}, {}):
        assert http.post("/v1.0/state/statestore/bulk", json=nothing).json() == []


# -- transactions


def transact(http: Any, *operations: Any, **more: Any) -> httpx.Response:
    response: httpx.Response = http.post(
        "/v1.0/state/strong/transaction", json={"operations": operations, **more.pop("body", {})}, **more
    )
    return response


def upsert(key: str, value: Any, **fields: Any) -> dict[str, Any]:
    return {"operation": "upsert", "request": {"key": key, "value": value, **fields}}


def test_a_transaction_on_one_key_is_applied_whole(http: Any, key: str) -> None:
    delete = {"operation": "delete", "request": {"key": key}}
    assert transact(http, upsert(key, 1), delete, upsert(key, 2), body={"metadata": None}).status_code == 204
    assert http.read(key, store="strong").json() == 2
    assert transact(http, delete).status_code == 204
    assert transact(http, delete).status_code == 204
    assert http.read(key, store="strong").status_code == 204
    assert transact(http).status_code == 204


def test_a_failed_check_in_a_transaction_is_dapr_s_plain_failure_and_undoes_it(http: Any, key: str) -> None:
    transact(http, upsert(key, 1))
    for last in (upsert(key, 3, etag="x"), {"operation": "delete", "request": {"key": key, "etag": "x"}}):
        refused = transact(http, upsert(key, 2), last)
        assert code(refused) == (500, "ERR_STATE_TRANSACTION")
        assert refused.json()["message"].startswith("error while executing state transaction: ")
        assert refused.headers["x-outcome"] == "not-applied"
    assert http.read(key, store="strong").json() == 1


def test_metadata_of_the_query_reaches_the_operations(http: Any, key: str) -> None:
    assert transact(http, upsert(key, 1), params={"metadata.ttlInSeconds": "50"}).status_code == 204
    assert "metadata.ttlexpiretime" in http.read(key, store="strong").headers
    assert transact(http, upsert(key, 1), body={"metadata": {"ttlInSeconds": "50"}}).status_code == 204
    assert "metadata.ttlexpiretime" not in http.read(key, store="strong").headers  # the body's is not for the items


# -- keys


@pytest.mark.parametrize(
    ("escaped", "plain"),
    [
        ("a%2Fb", "a/b"),
        ("a+b", "a b"),
        ("a%2Bb", "a+b"),
        ("%C3%A9", "é"),
        ("%2E%2E", ".."),
        ("a%25b", "a%b"),
        ("%22", '"'),
    ],
)
def test_a_key_in_the_path_is_decoded_as_dapr_does(http: Any, key: str, escaped: str, plain: str) -> None:
    http.save({"key": key + plain, "value": 1})
    assert http.read(key + escaped).json() == 1
    assert http.post("/v1.0/state/statestore/bulk", json={"keys": [key + plain]}).json()[0]["key"] == key + plain


def test_a_slash_at_the_end_and_slashes_in_the_middle_do_not_count(http: Any, key: str) -> None:
    http.save({"key": key, "value": 1})
    for path in (f"/v1.0/state/statestore/{key}/", f"/v1.0//state///statestore//{key}"):
        assert http.get(path).json() == 1


def test_words_of_routes_are_keys_for_get_and_delete(http: Any) -> None:
    for word in ("bulk", "transaction"):
        http.save({"key": word, "value": word})
        assert http.read(word).json() == word
        assert http.delete(f"/v1.0/state/statestore/{word}").status_code == 204


def test_stores_with_a_key_prefix_do_not_see_each_other(http: Any, key: str) -> None:
    http.save({"key": key, "value": 1}, store="strong")
    assert http.read(key, store="short").status_code == 204
    assert http.read(key).status_code == 204


def listed(http: Any, store: str = "statestore", **params: str) -> list[str]:
    """Every key that the pages of a list have."""
    found, token = [], ""
    while True:
        page = http.get(f"/v1.0/state/{store}", params={**params, "page_token": token}).json()
        assert set(page) == {"keys", "next_page_token"}
        found += page["keys"]
        if not (token := page["next_page_token"]):
            return found


def until(look: Callable[[], Any], wanted: Any, within_s: float = 20.0) -> Any:
    """What `look` gives once it is what is wanted, or after a while: a list is an eventual view."""
    give_up = time.monotonic() + within_s
    while (found := look()) != wanted and time.monotonic() < give_up:
        time.sleep(0.02)
    return found


def test_keys_are_listed_page_by_page(http: Any, key: str) -> None:
    http.save(*({"key": f"{key}{n:03}", "value": n} for n in range(120)))
    every = [f"{key}{n:03}" for n in range(120)]
    assert until(lambda: listed(http, prefix=key, page_limit="50"), every) == every
    assert len(http.get("/v1.0/state/statestore", params={"prefix": key}).json()["keys"]) == 50


def test_a_list_takes_the_prefix_of_its_store_off(http: Any, key: str) -> None:
    http.save({"key": key, "value": 1}, store="strong")
    assert until(lambda: listed(http, "strong", prefix=key), [key]) == [key]
    assert not any("||" in name for name in http.get("/v1.0/state/statestore").json()["keys"])
