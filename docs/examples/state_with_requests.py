#!/usr/bin/env python3
"""Dapr's state API with `requests`: save, get, delete; several writers and one value; who creates it.

Start a cluster with `kvnode up`, then run this.
"""

import json
import os
import random
import threading
import time

import requests

STATE = os.environ.get("DAPR_HTTP_ENDPOINT", "http://127.0.0.1:3500") + "/v1.0/state/statestore"
WRITERS, ROUNDS = 4, 5


def save_get_delete() -> None:
    order = {"key": "order-1", "value": {"item": "tea", "cents": 1250}, "options": {"consistency": "strong"}}
    requests.post(STATE, json=[order]).raise_for_status()
    found = requests.get(f"{STATE}/order-1", params={"consistency": "strong"})
    print("order-1 is", found.json(), "with the ETag", found.headers["ETag"])
    requests.delete(f"{STATE}/order-1", params={"consistency": "strong"}).raise_for_status()
    gone = requests.get(f"{STATE}/order-1", params={"consistency": "strong"})
    print("after the delete the answer is", gone.status_code)  # 204: there is no such key
    assert gone.status_code == 204


def add_one(key: str) -> None:
    """Add one to a counter that others change too: write only over what was read, and read again if that is gone."""
    while True:
        read = requests.get(f"{STATE}/{key}", params={"consistency": "strong"})
        count = read.json() if read.status_code == 200 else 0
        item = {"key": key, "value": count + 1, "options": {"concurrency": "first-write"}}
        if read.status_code == 200:
            item["etag"] = read.headers["ETag"]  # without one, first-write creates
        written = requests.post(STATE, json=[item])
        if written.ok:
            return
        if written.status_code != 409:  # 409: somebody was faster
            raise RuntimeError(f"{written.status_code} {written.headers.get('x-outcome')}: {written.text}")
        time.sleep(random.random() * 0.02)


def several_writers() -> None:
    requests.delete(f"{STATE}/visits", params={"consistency": "strong"}).raise_for_status()
    writers = [threading.Thread(target=lambda: [add_one("visits") for _ in range(ROUNDS)]) for _ in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    visits = requests.get(f"{STATE}/visits", params={"consistency": "strong"}).json()
    print(f"{WRITERS} writers added {ROUNDS} each: visits is {visits}")
    assert visits == WRITERS * ROUNDS


def who_creates_it() -> None:
    requests.delete(f"{STATE}/leader", params={"consistency": "strong"}).raise_for_status()
    answers = []
    for name in ("ada", "bob"):
        item = {"key": "leader", "value": name, "options": {"concurrency": "first-write"}}
        # A body that is a JSON string with the array in it, and options as headers, work as well.
        answers.append(requests.post(STATE, json=json.dumps([item]), headers={"consistency": "strong"}).status_code)
    print("the first to create the key got", answers[0], "and the second", answers[1])
    assert answers == [204, 409]


save_get_delete()
several_writers()
who_creates_it()
