"""The interface without async: the same calls, from any thread."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import kvclient
import kvclient.sync


@pytest.fixture
def served(make_cluster: Any) -> Iterator[Any]:
    """A scripted cluster on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    async def made() -> Any:
        return make_cluster()

    cluster = run(made())
    run(cluster.start())
    yield cluster
    run(cluster.close())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_every_call_is_there(served: Any) -> None:
    with kvclient.sync.connect(served.nodes[0].address) as kv:
        users = kv.store("users", consistency="strong")
        assert users.name == "users"
        item = users.put("ada", {"born": 1815})
        assert users.get("ada") == item
        with pytest.raises(kvclient.EtagMismatch):
            users.put("ada", 1, create=True)
        assert users.update("visits", lambda value: value + 1, default=0).value == 1
        assert users.transact("ada", [kvclient.Put(2), kvclient.Put(3)]).value == 3
        assert set(users.put_many({f"k{n}": n for n in range(600)})) == {f"k{n}" for n in range(600)}
        assert users.get_many(["k1", "absent"])["k1"].value == 1
        assert len(list(users.scan("k"))) == 600
        assert [item.key for item in users.scan("k", limit=2)] == ["k0", "k1"]
        assert users.explain("ada")["agree"]
        assert len(kv.status()) == 3
        operation = kv.new_operation_id()
        assert kv.put("k", 1, operation_id=operation) == kv.put("k", 1, operation_id=str(operation))
        users.delete("ada")
        assert users.get("ada") is None


def test_threads_share_a_client(served: Any) -> None:
    with kvclient.sync.connect(served.nodes[0].address) as kv, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: kv.update("n", lambda value: value + 1, default=0), range(100)))
        assert kv.get("n").value == 100


def test_a_closed_client_says_so_and_its_thread_is_gone(served: Any) -> None:
    kv = kvclient.sync.connect(served.nodes[0].address)
    kv.put("k", 1)
    kv.close()
    kv.close()
    with pytest.raises(kvclient.NotConnected, match="closed"):
        kv.get("k")
    assert not any(thread.name == "kvclient" for thread in threading.enumerate())


def test_closing_ends_the_calls_of_other_threads(served: Any) -> None:
    kv = kvclient.sync.connect(served.nodes[0].address)
    asked = threading.Event()

    def hold(message: Any) -> Any:
        asked.set()
        return "hold"

    served.everywhere(hold)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(kv.put, "k", 1, consistency="strong")
        assert asked.wait(10)
        kv.close()
        with pytest.raises(kvclient.OutcomeUnknown):
            call.result()


def test_a_failed_connect_leaves_no_thread() -> None:
    with pytest.raises(kvclient.NotConnected):
        kvclient.sync.connect("127.0.0.1:1")
    with pytest.raises(kvclient.InvalidRequest):
        kvclient.sync.connect("nowhere")
    assert not any(thread.name == "kvclient" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("one", "other"),
    [(kvclient.Store, kvclient.sync.Store), (kvclient.Kv, kvclient.sync.Kv)],
)
def test_both_interfaces_take_the_same_arguments(one: type, other: type) -> None:
    for name, member in inspect.getmembers(one, inspect.isfunction):
        if not name.startswith("_"):
            mirrored = inspect.signature(getattr(other, name)).parameters
            assert list(inspect.signature(member).parameters) == list(mirrored), name
    assert list(inspect.signature(kvclient.connect).parameters) == list(
        inspect.signature(kvclient.sync.connect).parameters
    )
