"""The walk-through's step in another language: Dapr's state API over HTTP, and kvclient looking over its shoulder."""

from __future__ import annotations

import httpx

from kvclient import Kv
from scripts.demo_expecting import expect

STORE = "statestore"
NUMBER = "12345678901234567890"
"""More digits than a float has: it must come back as it was sent."""


async def save_and_lose(url: str, kv: Kv) -> str:
    """Save over HTTP, read it through kvclient, and lose with a stale ETag; return what was seen.  Raises Failed."""
    async with httpx.AsyncClient(base_url=f"{url}/v1.0/state/{STORE}", timeout=10) as http:
        strong = {"consistency": "strong"}
        body = f'[{{"key": "http", "value": {{"n": {NUMBER}}}, "options": {{"consistency": "strong"}}}}]'
        saved = await http.post("", content=body)
        expect(saved.status_code == 204, f"the save was answered with {saved.status_code}: {saved.text}")
        item = await kv.store(STORE).get("http", consistency="strong")
        expect(item is not None and item.value == {"n": int(NUMBER)}, f"kvclient reads {item!r}")
        read = await http.get("/http", params=strong)
        expect(read.text == f'{{"n": {NUMBER}}}', f"HTTP reads {read.text}")
        etag = saved.headers["etag"]
        expect(read.headers["etag"] == etag, "the read has another ETag than the save")
        again = [{"key": "http", "value": "second", "etag": etag}]
        first, second = [await http.post("", json=again) for _ in range(2)]
        statuses = (first.status_code, second.status_code)
        expect(statuses == (204, 409), f"two saves with one ETag were answered with {statuses}")
        outcome = second.headers["x-outcome"]
        expect(outcome == "not-applied", f"the lost save says {outcome}")
    return f"saved and read over HTTP, to the last of {len(NUMBER)} digits; of two saves with one ETag: 204, then 409"
