"""Connecting, losing connections and finding them again; what is not kvnode is called that."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

import kvclient
from kvclient import connection
from kvclient.wire import frames
from kvclient.wire import messages as m


async def talker(greeting: bytes) -> asyncio.Server:
    """Start a server that says `greeting` to whatever it is told, and nothing more."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(greeting)
        await reader.read()
        writer.close()

    return await asyncio.start_server(talk, "127.0.0.1", 0)


def port_of(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


@pytest.mark.parametrize(
    "greeting",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x00\x00\x00\x04junk",
        frames.encode([(m.PAGE, 1, [], 0)], 1 << 20),
        frames.encode([(m.WELCOME, {})], 1 << 20),
        frames.encode([(m.WELCOME, {"protocol": 99})], 1 << 20),
        frames.encode([("hello", 1)], 1 << 20),
    ],
)
async def test_what_is_not_kvnode_is_not_connected_with_a_sentence(greeting: bytes) -> None:
    server = await talker(greeting)
    with pytest.raises(kvclient.NotConnected, match=f"127.0.0.1:{port_of(server)} is not a usable node"):
        await kvclient.connect(f"127.0.0.1:{port_of(server)}")
    server.close()


async def test_silence_is_not_connected() -> None:
    server = await talker(b"")
    with pytest.raises(kvclient.NotConnected, match=r"did not say it is a kvnode node within 0\.05 seconds"):
        await kvclient.connect(f"127.0.0.1:{port_of(server)}", connect_timeout=0.05)
    server.close()


async def test_nobody_listening_names_every_address() -> None:
    server = await talker(b"")
    port = port_of(server)
    server.close()
    await server.wait_closed()
    with pytest.raises(kvclient.NotConnected, match=rf"127\.0\.0\.1:{port}.*localhost:{port}"):
        await kvclient.connect(f"127.0.0.1:{port},localhost:{port}")


async def test_a_name_that_does_not_resolve_is_named_as_that() -> None:
    with pytest.raises(kvclient.NotConnected, match=r"nowhere\.invalid:7401 does not resolve") as refused:
        await kvclient.connect("nowhere.invalid:7401")
    assert "nobody listens" not in str(refused.value)


async def test_the_reason_of_a_goodbye_is_told() -> None:
    goodbye = (m.GOODBYE, "protocol", "this node speaks 2, you speak 1")
    server = await talker(frames.encode([goodbye], 1 << 20))
    with pytest.raises(kvclient.NotConnected, match="this node speaks 2, you speak 1"):
        await kvclient.connect(f"127.0.0.1:{port_of(server)}")
    server.close()


async def test_a_cluster_of_another_name_is_refused(cluster: Any) -> None:
    with pytest.raises(kvclient.NotConnected, match="it is 'test', not 'production'"):
        await kvclient.connect(cluster.nodes[0].address, cluster="production")


@pytest.mark.parametrize(
    "changes",
    [
        {"preference": [[0, 1, 9]] * 8},
        {"preference": []},
        {"partitions": 0, "preference": []},
        {"nodes": [["n1", "127.0.0.1"]]},
        {"nodes": 7},
        {"stores": {"default": 7}},
        {"limits": {}},
    ],
)
async def test_a_welcome_that_does_not_fit_together_is_refused(make_cluster: Any, changes: dict[str, Any]) -> None:
    cluster = make_cluster(nodes=1)
    await cluster.start()
    cluster.nodes[0].welcome_changes = changes
    with pytest.raises(kvclient.NotConnected):
        await kvclient.connect(cluster.nodes[0].address)
    await cluster.close()


async def test_one_node_is_enough_to_find_the_others(cluster: Any) -> None:
    async with kvclient.connect(cluster.nodes[1].address) as kv:
        for number in range(40):
            await kv.get(f"k{number}")
    assert all(node.requests for node in cluster.nodes)
    assert [len(node.hellos) for node in cluster.nodes] == [1, 1, 1]


async def test_a_node_under_two_addresses_keeps_one_connection(cluster: Any) -> None:
    node = cluster.nodes[0]
    async with kvclient.connect([f"localhost:{node.port}", node.address]) as kv:
        await kv.put("k", 1)
        assert len(node.peers) == 1


async def test_requests_go_to_the_primary_of_their_key(cluster: Any, kv: kvclient.Kv) -> None:
    users = kv.store("users")
    for number in range(40):
        key = f"k{number}"
        await users.get(key)
        assert cluster.primary(key, "users").requests[-1][2] == b"users\0" + key.encode()


async def test_a_node_that_is_down_is_passed_by_and_found_again(cluster: Any, kv: kvclient.Kv) -> None:
    node = cluster.primary("k")
    await kv.put("k", 1)
    await node.stop()
    await kv.get("k")
    assert (await kv.get("k")).value == 1
    await node.start()
    while node.name not in kv._cluster.links:
        await kv._cluster.wait_for_change(5)
    before = len(node.requests)
    assert (await kv.get("k")).value == 1
    assert len(node.requests) == before + 1


async def test_when_no_node_is_left_calls_end_as_not_connected(cluster: Any, kv: kvclient.Kv) -> None:
    for node in cluster.nodes:
        await node.stop()
    while kv._cluster.links:
        await kv._cluster.wait_for_change(5)
    for call in (kv.get("k", timeout=0.1), kv.put("k", 1, timeout=0.1), kv.put("k", 1, create=True, timeout=0.1)):
        with pytest.raises(kvclient.NotConnected) as refused:
            await call
        assert refused.value.outcome == "not applied"
    with pytest.raises(kvclient.NotConnected):
        _ = [item async for item in kv.scan(timeout=0.1)]
    with pytest.raises(kvclient.NotConnected):
        kv.new_operation_id()


async def test_a_call_waits_for_a_node_to_come_back(make_cluster: Any) -> None:
    cluster = make_cluster(nodes=1)
    await cluster.start()
    kv = await cluster.connect()
    await cluster.nodes[0].stop()
    while kv._cluster.links:
        await kv._cluster.wait_for_change(5)
    calls = [asyncio.ensure_future(kv.put("k", 1, create=True)), asyncio.ensure_future(kv.get("other"))]
    await asyncio.wait(calls, timeout=0.01)
    await cluster.nodes[0].start()
    assert (await calls[0]).value == 1
    assert await calls[1] is None
    await cluster.close()


async def test_a_node_that_does_not_serve_gets_no_requests_until_it_does(cluster: Any) -> None:
    node = cluster.primary("k")
    node.welcome_changes = {"serving": False}
    state = "joining"
    node.rule = lambda message: (m.RESULT, message[1], {"state": state}) if message[0] == m.STATUS else None
    kv = await cluster.connect()
    await kv.put("k", 1)
    await node.received(1, m.STATUS)
    assert not node.kinds(m.WRITE)
    state = "serving"
    await node.received(2, m.STATUS)
    while not kv._cluster.links[node.name].is_serving:
        await kv._cluster.wait_for_change(5)
    await kv.put("k", 2)
    assert len(node.kinds(m.WRITE)) == 1


async def test_a_silent_node_is_passed_by_until_it_speaks(cluster: Any, kv: kvclient.Kv) -> None:
    """A paused node must not hold calls until their deadline; ticks are driven by hand here."""
    node = cluster.primary("k")
    link = kv._cluster.links[node.name]
    node.answers_pings = False
    node.rule = lambda message: node.HOLD
    read, write = asyncio.ensure_future(kv.get("k")), asyncio.ensure_future(kv.put("k", 1))
    await node.received(2)
    for _ in range(connection.SUSPECT_TICKS + 3):
        link.tick()
    assert link.is_suspect
    assert await read is None
    assert not write.done()
    node.rule = None
    node.release()
    assert (await write).value == 1
    assert not link.is_suspect
    assert len(node.hellos) == 1


async def test_a_node_that_stays_silent_is_cut_off(cluster: Any, kv: kvclient.Kv) -> None:
    node = cluster.primary("k")
    link = kv._cluster.links[node.name]
    node.answers_pings = False
    node.rule = lambda message: node.HOLD
    write = asyncio.ensure_future(kv.put("k", 1))
    await node.received(1)
    for _ in range(connection.DEAD_TICKS + 3):
        link.tick()
    with pytest.raises(kvclient.OutcomeUnknown):
        await write


async def test_garbage_on_an_open_connection_closes_it_and_the_client_goes_on(cluster: Any, kv: kvclient.Kv) -> None:
    node = cluster.primary("k")
    for garbage in (b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1", frames.encode([(m.APPLIED, 1, "x", 0)], 1 << 20)):
        for peer in list(node.peers):
            peer.transport.write(garbage)
        await kv.put("k", 1, consistency="strong")
    assert (await kv.get("k")).value == 1


async def test_a_wrong_kind_of_answer_is_unknown_for_a_write(cluster: Any, kv: kvclient.Kv) -> None:
    cluster.everywhere(lambda message: (m.PAGE, message[1], [], 0))
    with pytest.raises(kvclient.OutcomeUnknown):
        await kv.put("k", 1)


async def test_large_values_in_flight_are_bounded_and_many_find_their_pace(cluster: Any) -> None:
    cluster.limits["value_bytes_max"] = connection.LARGE_BYTES_MAX
    kv = await cluster.connect()
    node = cluster.primary("k")
    node.rule = lambda message: node.HOLD
    value = b"x" * (connection.LARGE_BYTES_MAX // 2 - 1)
    waiting = [asyncio.ensure_future(kv.put("k", value)) for _ in range(2)]
    await node.received(2)
    with pytest.raises(kvclient.Overloaded, match="fewer large values"):
        await kv.put("k", value)
    small = asyncio.ensure_future(kv.put("k", 1))
    await node.received(3)
    node.rule = None
    node.release()
    await asyncio.gather(*waiting, small)
    done = await kv.put_many({f"k{number}": value for number in range(12)})
    assert all(isinstance(item, kvclient.Item) for item in done.values())


async def test_requests_of_one_turn_leave_in_one_write(cluster: Any, kv: kvclient.Kv) -> None:
    link = kv._cluster.links["n1"]
    writes: list[bytes] = []
    deadline = link.loop.time() + 5

    class Spy:
        def write(self, data: bytes) -> None:
            writes.append(data)

        def close(self) -> None:
            pass

    real, link._transport = link._transport, Spy()  # type: ignore[assignment]
    for number in range(50):
        link.ask([m.GET, 0, b"default\0%d" % number, 0, 1, 5000, 0], deadline)
    await asyncio.sleep(0)
    link._transport = real
    assert len(writes) == 1
    assert len(frames.Decoder(1 << 20).feed(writes[0])[0]) == 50


async def test_deadlines_out_of_order_are_each_kept(cluster: Any, kv: kvclient.Kv) -> None:
    cluster.everywhere(lambda message: cluster.nodes[0].HOLD)
    order: list[str] = []

    async def call(key: str, timeout: float) -> None:
        with pytest.raises(kvclient.DeadlineExceeded):
            await kv.get("k", timeout=timeout)
        order.append(key)

    await asyncio.gather(call("late", 0.3), call("soon", 0.05), call("later", 0.5))
    assert order == ["soon", "late", "later"]


async def test_closing_ends_what_is_in_flight_and_is_idempotent(cluster: Any, kv: kvclient.Kv) -> None:
    cluster.everywhere(lambda message: cluster.nodes[0].HOLD)
    write = asyncio.ensure_future(kv.put("k", 1, consistency="strong"))
    read = asyncio.ensure_future(kv.get("k"))
    await cluster.primary("k").received(2)
    await kv.close()
    with pytest.raises(kvclient.OutcomeUnknown):
        await write
    with pytest.raises(kvclient.NotConnected, match="closed"):
        await read
    with pytest.raises(kvclient.NotConnected, match="closed"):
        await kv.put("k", 1)
    await kv.close()


async def test_nothing_is_left_running_after_close(cluster: Any) -> None:
    before = asyncio.all_tasks()
    async with kvclient.connect(cluster.nodes[0].address) as kv:
        await kv.put("k", 1)
    assert asyncio.all_tasks() == before
    gc.collect()
