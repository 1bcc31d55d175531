"""Dapr's own sidecar, with the component as its state store.  Needs `daprd` on the PATH; skipped without it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gateways import run_process
from processes import RealCluster

import kvclient
from kvnode.dapr.settings import ComponentSettings
from kvnode.local.plan import free_ports

DAPRD = shutil.which("daprd")
COMPONENT = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: orders
spec:
  type: state.kvnode
  version: v1
  metadata:
    - {name: store, value: default}
    - {name: keyPrefix, value: name}
    - {name: ttlInSeconds, value: "3600"}
    - {name: consistency, value: strong}
"""
START_S = 30.0

pytestmark = pytest.mark.skipif(DAPRD is None, reason="no daprd on the PATH: Dapr's own sidecar was not driven")


@pytest.fixture(scope="module")
def sidecar(real_cluster: RealCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a sidecar whose store `orders` is the cluster."""
    assert DAPRD is not None
    directory: Path = tmp_path_factory.mktemp("sidecar")
    resources, sockets = directory / "resources", directory / "sockets"
    resources.mkdir()
    sockets.mkdir()
    (resources / "orders.yaml").write_text(COMPONENT)
    settings = ComponentSettings(
        tuple(real_cluster.addresses), real_cluster.config.cluster_name, directory / "state", sockets / "kvnode.sock"
    )
    http, grpc, internal = free_ports(3)
    arguments = {
        "app-id": "checkout", "dapr-http-port": http, "dapr-grpc-port": grpc, "dapr-internal-grpc-port": internal,
        "dapr-listen-addresses": "127.0.0.1", "resources-path": resources, "enable-metrics": "false",
        "placement-host-address": "",
    }  # fmt: skip
    with run_process("kvnode.dapr.component", settings), (directory / "daprd.log").open("wb") as log:
        daprd = subprocess.Popen(
            [DAPRD, *(f"--{name}={value}" for name, value in arguments.items())],
            env=os.environ | {"DAPR_HOST_IP": "127.0.0.1", "DAPR_COMPONENTS_SOCKETS_FOLDER": str(sockets)},
            stdout=log,
            stderr=log,
        )
        try:
            transport = httpx.HTTPTransport(retries=8)  # of connections, half a second longer each time
            with httpx.Client(base_url=f"http://127.0.0.1:{http}", timeout=START_S, transport=transport) as client:
                loaded = client.get("/v1.0/metadata").json()["components"]
                assert [component["capabilities"] for component in loaded] == [["ETAG", "TTL"]]
                yield client
        finally:
            daprd.terminate()
            daprd.wait()


async def test_a_sidecar_keeps_its_state_in_the_cluster(
    sidecar: httpx.Client, real_cluster: RealCluster, key: str
) -> None:
    orders, path = "/v1.0/state/orders", f"/v1.0/state/orders/{key}"
    created = {"key": key, "value": {"n": 1}, "options": {"concurrency": "first-write", "consistency": "strong"}}
    assert sidecar.post(orders, json=[created]).status_code == 204
    assert sidecar.post(orders, json=[created]).status_code == 409
    found = sidecar.get(path)
    assert found.json() == {"n": 1}
    assert found.headers["metadata.ttlExpireTime"].endswith("Z")

    changed = {"key": key, "value": 2, "etag": found.headers["etag"]}
    assert sidecar.post(orders, json=[changed]).status_code == 204
    lost = sidecar.post(orders, json=[changed])
    assert (lost.status_code, lost.json()["errorCode"]) == (409, "ERR_STATE_SAVE")
    many = sidecar.post(f"{orders}/bulk", json={"keys": [key, "missing"]}).json()
    assert [item.get("data") for item in many] == [2, None]

    async with kvclient.connect(real_cluster.addresses) as kv:
        item = await kv.store("default").get(f"orders||{key}", consistency="strong")
        assert item is not None
        assert item.raw == b"2"

    assert sidecar.delete(path, headers={"If-Match": found.headers["etag"]}).status_code == 409
    assert sidecar.delete(path, headers={"If-Match": many[0]["etag"]}).status_code == 204
    assert sidecar.get(path).status_code == 204


def test_a_sidecar_is_told_that_there_are_no_transactions(sidecar: httpx.Client, key: str) -> None:
    operations = [{"operation": "upsert", "request": {"key": key, "value": 1}}]
    refused = sidecar.post("/v1.0/state/orders/transaction", json={"operations": operations})
    assert (refused.status_code, refused.json()["errorCode"]) == (500, "ERR_STATE_STORE_NOT_SUPPORTED")
