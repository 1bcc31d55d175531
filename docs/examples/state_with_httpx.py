#!/usr/bin/env python3
"""Dapr's state API with `httpx` and asyncio: save, get, delete; several writers and one value; who creates it.

Start a cluster with `kvnode up`, then run this.
"""

import asyncio
import os
import random

import httpx

STATE = os.environ.get("DAPR_HTTP_ENDPOINT", "http://127.0.0.1:3500") + "/v1.0/state/statestore"
STRONG = {"consistency": "strong"}
WRITERS, ROUNDS = 4, 5


async def save_get_delete(http: httpx.AsyncClient) -> None:
    order = {"key": "order-2", "value": {"item": "tea", "cents": 1250}, "options": STRONG}
    (await http.post(STATE, json=[order])).raise_for_status()
    found = await http.get(f"{STATE}/order-2", params=STRONG)
    print("order-2 is", found.json(), "with the ETag", found.headers["etag"])
    (await http.delete(f"{STATE}/order-2", params=STRONG)).raise_for_status()
    gone = await http.get(f"{STATE}/order-2", params=STRONG)
    print("after the delete the answer is", gone.status_code)  # 204: there is no such key
    assert gone.status_code == 204


async def add_one(http: httpx.AsyncClient, key: str) -> None:
    """Add one to a counter that others change too: write only over what was read, and read again if that is gone."""
    while True:
        read = await http.get(f"{STATE}/{key}", params=STRONG)
        count = read.json() if read.status_code == 200 else 0
        etag = {"etag": read.headers["etag"]} if read.status_code == 200 else {}  # without one, first-write creates
        item = {"key": key, "value": count + 1, "options": {"concurrency": "first-write"}, **etag}
        written = await http.post(STATE, json=[item])
        if written.is_success:
            return
        if written.status_code != 409:  # 409: somebody was faster
            raise RuntimeError(f"{written.status_code} {written.headers.get('x-outcome')}: {written.text}")
        await asyncio.sleep(random.random() * 0.02)


async def several_writers(http: httpx.AsyncClient) -> None:
    (await http.delete(f"{STATE}/visitors", params=STRONG)).raise_for_status()

    async def writer() -> None:
        for _ in range(ROUNDS):
            await add_one(http, "visitors")

    await asyncio.gather(*(writer() for _ in range(WRITERS)))
    visitors = (await http.get(f"{STATE}/visitors", params=STRONG)).json()
    print(f"{WRITERS} writers added {ROUNDS} each: visitors is {visitors}")
    assert visitors == WRITERS * ROUNDS


async def who_creates_it(http: httpx.AsyncClient) -> None:
    (await http.delete(f"{STATE}/captain", params=STRONG)).raise_for_status()
    items = [{"key": "captain", "value": name, "options": {"concurrency": "first-write"}} for name in ("ada", "bob")]
    answers = await asyncio.gather(*(http.post(STATE, json=[item]) for item in items))
    statuses = sorted(answer.status_code for answer in answers)
    print("of two that created the key at once, one got", statuses[0], "and the other", statuses[1])
    assert statuses == [204, 409]


async def main() -> None:
    async with httpx.AsyncClient(timeout=10) as http:
        await save_get_delete(http)
        await several_writers(http)
        await who_creates_it(http)


asyncio.run(main())
