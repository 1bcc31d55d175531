"""The gateway as it starts and stops, what it says of itself, and the truth about quorums and outcomes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateways import run_gateway, settings_of
from processes import RealCluster, run_cluster

from kvnode.dapr import gateway as process
from kvnode.dapr.listening import AddressError, listen


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["errorCode"]


# -- what it says of itself


def test_a_gateway_is_healthy(http: Any) -> None:
    for path in ("/v1.0/healthz", "/v1.0/healthz?appid=app", "/v1.0/healthz/outbound"):
        response = http.get(path)
        assert (response.status_code, response.content) == (204, b"")
    assert code(http.get("/v1.0/healthz?appid=other")) == (500, "ERR_HEALTH_APPID_NOT_MATCH")


def test_metadata_lists_the_stores_and_takes_attributes(http: Any) -> None:
    facts = http.get("/v1.0/metadata").json()
    assert facts["id"] == "app"
    assert [component["name"] for component in facts["components"]] == ["statestore", "strong", "short"]
    component = {"name": "strong", "type": "state.kvnode", "version": "v1", "capabilities": ["ETAG", "TTL"]}
    assert component in facts["components"]
    assert facts["actorRuntime"]["runtimeStatus"] == "DISABLED"
    assert facts["extended"]["daprRuntimeVersion"]
    assert http.put("/v1.0/metadata/a%2Fb", content="é").status_code == 204
    assert http.get("/v1.0/metadata").json()["extended"]["a/b"] == "é"


def test_attributes_are_bounded(new_gateway: Any) -> None:
    with new_gateway() as gateway, httpx.Client(base_url=gateway.url) as http:
        assert code(http.put("/v1.0/metadata/big", content="x" * 5000)) == (400, "ERR_MALFORMED_REQUEST")
        assert code(http.put("/v1.0/metadata/bad", content=b"\xff")) == (400, "ERR_MALFORMED_REQUEST")
        statuses = [http.put(f"/v1.0/metadata/a{n}", content="x").status_code for n in range(65)]
        assert statuses == [204] * 64 + [400]
        assert http.put("/v1.0/metadata/a1", content="y").status_code == 204


def test_a_token_opens_everything_but_health(new_gateway: Any) -> None:
    with new_gateway(token="secret") as gateway, httpx.Client(base_url=gateway.url) as http:
        for path in ("/v1.0/state/statestore/k", "/v1.0/metadata", "/v1.0/nothing"):
            for headers in ({}, {"dapr-api-token": "wrong"}, {"dapr-api-token": ""}):
                refused = http.get(path, headers=headers)
                assert (refused.status_code, refused.text) == (401, "invalid api token")
                assert refused.headers["content-type"].startswith("text/plain")
        assert http.get("/v1.0/metadata", headers={"dapr-api-token": "secret"}).status_code == 200
        assert http.post("/v1.0/shutdown").status_code == 401
        for path in ("/v1.0/healthz", "/v1.0/healthz/outbound"):
            assert http.get(path).status_code == 204


# -- how it starts and stops


def test_a_request_may_not_stop_it_unless_that_is_allowed(http: Any, new_gateway: Any) -> None:
    assert code(http.post("/v1.0/shutdown")) == (403, "ERR_SHUTDOWN_NOT_ALLOWED")
    assert "--allow-shutdown" in http.post("/v1.0/shutdown").text
    with new_gateway(allow_shutdown=True) as gateway:
        assert httpx.post(f"{gateway.url}/v1.0/shutdown").status_code == 204
        wait_until_gone(gateway.url)


def test_before_there_is_a_cluster_it_says_so(settings: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    stopped = asyncio.Event()
    changed = {"seeds": ("127.0.0.1:1",), "http_port": port}

    async def run() -> None:
        serving = asyncio.ensure_future(process.serve(replace(settings, **changed), stopped, lambda *addresses: None))
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", transport=httpx.AsyncHTTPTransport(retries=5)
        ) as http:
            assert code(await http.get("/v1.0/healthz")) == (500, "ERR_HEALTH_NOT_READY")
            assert code(await http.get("/v1.0/healthz/outbound")) == (500, "ERR_OUTBOUND_HEALTH_NOT_READY")
            assert (await http.get("/v1.0/metadata")).status_code == 200
            refused = await http.post("/v1.0/state/statestore", json=[{"key": "k"}])
            assert (refused.status_code, refused.headers["x-outcome"]) == (503, "not-applied")
            assert refused.headers["retry-after"] == "1"
        stopped.set()
        await serving

    asyncio.run(run())


@pytest.mark.parametrize("setting", ["http_port", "grpc_port"])
def test_an_address_in_use_is_one_sentence(
    gateway: Any, settings: Any, setting: str, capfd: pytest.CaptureFixture[str]
) -> None:
    address = gateway.address if setting == "http_port" else gateway.grpc_address
    port = int(address.rsplit(":", 1)[1])
    taken = f"cannot listen on 127.0.0.1:{port}: another process does; stop that or choose another {setting}$"
    with pytest.raises(AddressError, match=taken):
        asyncio.run(process.serve(replace(settings, **{setting: port}), asyncio.Event(), lambda *addresses: None))
    assert capfd.readouterr().err == ""  # the gRPC library has words of its own


def test_a_host_that_is_not_of_this_machine_is_one_sentence(settings: Any) -> None:
    for host in ("192.0.2.1", "no.such.host.invalid", "a" * 300):
        with pytest.raises(AddressError, match=f"cannot listen on {host}:0: .*; choose another host$"):
            asyncio.run(process.serve(replace(settings, host=host), asyncio.Event(), lambda *addresses: None))


def test_an_answer_waits_for_no_receipt_of_its_first_half() -> None:
    with (
        listen("127.0.0.1", 0, "http_port")[0] as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


PROGRAM = """
import asyncio, dataclasses, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
from kvnode.dapr import gateway
from kvnode.dapr.settings import DaprStore, GatewaySettings
settings = GatewaySettings(tuple(sys.argv[1:]), "", {"statestore": DaprStore("statestore", "default")})
settings = dataclasses.replace(settings, http_port=0, grpc_port=0)
asyncio.run(gateway.run(settings))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_after_what_is_under_way(
    real_cluster: RealCluster, key: str, number: signal.Signals
) -> None:
    started = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *real_cluster.addresses], stdout=subprocess.PIPE, text=True
    )
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        assert line.startswith("kvnode gateway serves HTTP on 127.0.0.1:")
        address = line.split()[5]
        host, port = address.split(":")
        body = f'[{{"key":"{key}","value":1}}]'.encode()
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            head = f"POST /v1.0/state/statestore HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body[:5])
            assert httpx.get(f"http://{address}/v1.0/healthz").status_code == 204  # so the half request is there too
            started.send_signal(number)
            wait_until_gone(f"http://{address}")
            connection.sendall(body[5:])
            assert connection.recv(1000).startswith(b"HTTP/1.1 204")
        assert started.wait(30) == 0
        assert started.stdout.read() == ""
    finally:
        started.kill()
        started.wait()


# -- quorums and outcomes


def test_the_truth_about_quorum_and_outcomes(tmp_path: Path) -> None:
    with (
        run_cluster(tmp_path / "cluster") as cluster,
        run_gateway(settings_of(cluster)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=30) as http,
    ):
        assert http.post("/v1.0/state/strong", json=[{"key": "k", "value": 1}]).status_code == 204
        cluster.tell("kill", "n3")
        wait_until(http, 204)
        assert http.post("/v1.0/state/strong", json=[{"key": "k", "value": 2}]).status_code == 204
        cluster.tell("kill", "n2")
        wait_until(http, 500)
        refused = http.get("/v1.0/healthz/outbound")
        assert "no quorum" in refused.json()["message"]
        assert http.get("/v1.0/healthz").status_code == 204  # the gateway itself is well
        check_not_applied(http)
        cluster.tell("restart", "n2")
        wait_until(http, 204)
        assert http.get("/v1.0/state/strong/k").json() == 2


def check_not_applied(http: httpx.Client) -> None:
    operation = {"operation": "upsert", "request": {"key": "k", "value": 3}}
    for error, response in {
        "ERR_STATE_SAVE": http.post("/v1.0/state/strong", json=[{"key": "k", "value": 3}]),
        "ERR_STATE_DELETE": http.delete("/v1.0/state/strong/k"),
        "ERR_STATE_TRANSACTION": http.post("/v1.0/state/strong/transaction", json={"operations": [operation]}),
        "ERR_STATE_GET": http.get("/v1.0/state/strong/k"),
    }.items():
        assert code(response) == (503, error), response.text
        assert response.headers["x-outcome"] == "not-applied"
    two = http.post("/v1.0/state/strong", json=[{"key": "k", "value": 3}, {"key": "l", "value": 3}])
    assert code(two) == (503, "ERR_STATE_SAVE")
    assert [item["outcome"] for item in two.json()["items"]] == ["not-applied"] * 2
    bulk = http.post("/v1.0/state/strong/bulk", json={"keys": ["k"]})
    assert bulk.status_code == 200
    assert "error" in bulk.json()[0]


def wait_until_gone(url: str) -> None:
    """Wait until nobody listens there any more."""
    with contextlib.suppress(httpx.TransportError):
        while True:
            httpx.get(f"{url}/v1.0/healthz")
            time.sleep(0.02)


def wait_until(http: httpx.Client, status: int) -> None:
    """Wait until the outbound health is so."""
    while http.get("/v1.0/healthz/outbound").status_code != status:
        time.sleep(0.05)


def test_one_of_many_racing_writers_wins_each_etag(gateway: Any, key: str) -> None:
    with httpx.Client(base_url=gateway.url, timeout=30) as http, ThreadPoolExecutor(8) as pool:
        etag = http.post("/v1.0/state/strong", json=[{"key": key, "value": -1}]).headers["etag"]

        def write(number: int) -> httpx.Response:
            return http.post("/v1.0/state/strong", json=[{"key": key, "value": number, "etag": etag}])

        for _ in range(5):
            answers = list(pool.map(write, range(8)))
            assert sorted(answer.status_code for answer in answers) == [204] + [409] * 7
            (winner,) = (number for number, answer in enumerate(answers) if answer.status_code == 204)
            read = http.get(f"/v1.0/state/strong/{key}")
            assert read.json() == winner
            assert read.headers["etag"] == answers[winner].headers["etag"]
            etag = read.headers["etag"]


def test_it_outlives_its_cluster_and_ends_with_every_answer_true(tmp_path: Path) -> None:
    writers = Writers()
    with run_cluster(tmp_path / "cluster") as cluster:
        with run_gateway(settings_of(cluster)) as gateway, httpx.Client(base_url=gateway.url, timeout=30) as http:
            for node in ("n1", "n2", "n3"):
                cluster.tell("kill", node)
            refused = http.post("/v1.0/state/strong", json=[{"key": "k", "value": 1}])
            assert (*code(refused), refused.headers["x-outcome"]) == (503, "ERR_STATE_SAVE", "not-applied")
            for node in ("n1", "n2", "n3"):
                cluster.tell("restart", node)
            wait_until(http, 204)
            writers.start(gateway.url)
        writers.join()  # the gateway has stopped under them
        with run_gateway(settings_of(cluster)) as gateway, httpx.Client(base_url=gateway.url, timeout=30) as http:
            for answered, refused_ones in zip(writers.answered, writers.refused, strict=True):
                assert http.get(f"/v1.0/state/strong/{answered}").status_code == 200
                for key in refused_ones:
                    assert http.get(f"/v1.0/state/strong/{key}").status_code == 204


class Writers:
    """Threads that save one key after the other until they cannot."""

    def __init__(self) -> None:
        self.answered: list[str] = [""] * 8
        """The last key of each that was saved."""
        self.refused: list[list[str]] = [[] for _ in range(8)]
        """Keys of which the gateway has not heard."""
        self._threads: list[threading.Thread] = []

    def start(self, url: str) -> None:
        """Start, and wait until each has saved a few."""
        self._threads = [threading.Thread(target=self._write, args=(url, number)) for number in range(8)]
        for thread in self._threads:
            thread.start()
        deadline_s = time.monotonic() + 60
        while not all(key > f"{number}-0003" for number, key in enumerate(self.answered)):
            assert time.monotonic() < deadline_s, self.answered
            time.sleep(0.01)

    def join(self) -> None:
        """Wait until none can save any more."""
        for thread in self._threads:
            thread.join()

    def _write(self, url: str, number: int) -> None:
        with httpx.Client(base_url=url, timeout=30) as http:
            for count in range(10_000):
                key = f"{number}-{count:04}"
                try:
                    assert http.post("/v1.0/state/strong", json=[{"key": key, "value": 1}]).status_code == 204
                except httpx.ConnectError:
                    self.refused[number].append(key)
                    return
                except httpx.TransportError:  # it was closed while the request was on its way: nobody knows
                    return
                self.answered[number] = key
