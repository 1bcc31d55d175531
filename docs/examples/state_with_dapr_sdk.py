#!/usr/bin/env python3
"""The state API of Dapr's SDK for Python (`pip install dapr`), without a sidecar: save, get, delete; several writers
and one value; who creates it.

Start a cluster with `kvnode up`, then run this.
"""

import random
import threading
import time

import grpc
from dapr.clients import DaprClient
from dapr.clients.grpc._state import Concurrency, Consistency, StateOptions

STORE = "statestore"
STRONG = {"consistency": "strong"}  # get_state has no option for it, so it travels as metadata
FIRST_WRITE = StateOptions(consistency=Consistency.strong, concurrency=Concurrency.first_write)
LAST_WRITE = StateOptions(consistency=Consistency.strong, concurrency=Concurrency.last_write)
WRITERS, ROUNDS = 4, 5


def save_get_delete(dapr: DaprClient) -> None:
    dapr.save_state(STORE, "order-3", '{"item": "tea"}', options=LAST_WRITE)
    found = dapr.get_state(STORE, "order-3", state_metadata=STRONG)
    print("order-3 is", found.json(), "with the ETag", found.etag)
    dapr.delete_state(STORE, "order-3", options=LAST_WRITE)
    gone = dapr.get_state(STORE, "order-3", state_metadata=STRONG)
    print("after the delete the data are", gone.data)  # empty, and without an ETag: there is no such key
    assert (gone.data, gone.etag) == (b"", "")


def add_one(dapr: DaprClient, key: str) -> None:
    """Add one to a counter that others change too: write only over what was read, and read again if that is gone."""
    while True:
        read = dapr.get_state(STORE, key, state_metadata=STRONG)
        count = int(read.data or b"0")
        try:
            dapr.save_state(STORE, key, str(count + 1), etag=read.etag or None, options=FIRST_WRITE)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.ABORTED:  # ABORTED: somebody was faster
                raise
            time.sleep(random.random() * 0.02)
        else:
            return


def several_writers(dapr: DaprClient) -> None:
    dapr.delete_state(STORE, "guests", options=LAST_WRITE)
    writers = [
        threading.Thread(target=lambda: [add_one(dapr, "guests") for _ in range(ROUNDS)]) for _ in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    guests = int(dapr.get_state(STORE, "guests", state_metadata=STRONG).data)
    print(f"{WRITERS} writers added {ROUNDS} each: guests is {guests}")
    assert guests == WRITERS * ROUNDS


def who_creates_it(dapr: DaprClient) -> None:
    dapr.delete_state(STORE, "host", options=LAST_WRITE)
    dapr.save_state(STORE, "host", "ada", options=FIRST_WRITE)
    code = None
    try:
        dapr.save_state(STORE, "host", "bob", options=FIRST_WRITE)
    except grpc.RpcError as error:
        code = error.code()
    print("the second to create the key got", code)
    assert code is grpc.StatusCode.ABORTED


with DaprClient() as client:
    save_get_delete(client)
    several_writers(client)
    who_creates_it(client)
