"""A real cluster for all tests here, and a gateway that speaks for it over real sockets."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
from gateways import Gateway, Http, run_gateway, settings_of
from processes import RealCluster, own_packages, run_cluster

from kvnode.dapr.settings import GatewaySettings

__all__ = ["own_packages"]


@pytest.fixture(scope="session")
def real_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """Three nodes that stay up; every test uses keys of its own."""
    with run_cluster(tmp_path_factory.mktemp("dapr") / "cluster") as running:
        yield running


@pytest.fixture(scope="session")
def settings(real_cluster: RealCluster) -> GatewaySettings:
    """The settings of the shared gateway, for others to change."""
    return settings_of(real_cluster)


@pytest.fixture(scope="session")
def gateway(settings: GatewaySettings) -> Iterator[Gateway]:
    """A gateway for all tests."""
    with run_gateway(settings) as running:
        yield running


@pytest.fixture(scope="session")
def new_gateway(settings: GatewaySettings) -> Callable[..., AbstractContextManager[Gateway]]:
    """Start a gateway with settings of its own: `with new_gateway(token="x") as gateway`."""
    return lambda **changes: run_gateway(replace(settings, **changes))


@pytest.fixture(scope="session")
def http(gateway: Gateway) -> Iterator[Http]:
    """A client of the shared gateway."""
    with Http(gateway) as client:
        yield client


@pytest.fixture
def key() -> str:
    """A key that no other test uses."""
    return uuid.uuid4().hex


@pytest.fixture
def nothing_unforeseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that the test did ends in an error in the gateway's log, or in an exception that nobody foresaw."""
    yield
    assert [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info] == []
