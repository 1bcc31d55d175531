"""The network of a cluster: which links a request hurts, and what it leaves alone."""

from __future__ import annotations

import pytest

from kvclient.errors import ConfigError
from kvnode import config as configuration
from kvnode import process
from kvnode.local.network import NODES_MAX, Network
from kvnode.local.proxy import CLEAR, Condition
from kvnode.local.statefile import LocalError

CONFIG = configuration.local(3)
BOTH = [["n1", "n2"], ["n2", "n1"]]


async def test_each_node_dials_every_other_through_a_port_of_its_own() -> None:
    async with Network(CONFIG) as network:
        told = [process._peers(CONFIG, network.variables(node.id)[process.PEERS_VARIABLE]) for node in CONFIG.nodes]
    assert [sorted(peers) for peers in told] == [["n2", "n3"], ["n1", "n3"], ["n1", "n2"]]
    assert len({address for peers in told for address in peers.values()}) == 6


async def test_a_cut_replaces_the_one_before_and_leaves_slow_links_slow() -> None:
    async with Network(CONFIG) as network:
        network.answer({"do": "slow", "links": BOTH, "delay_ms": 100, "jitter_ms": 50, "bytes_per_s": 0})
        network.answer({"do": "cut", "links": [["n1", "n3"]]})
        network.answer({"do": "cut", "links": BOTH})
        assert sorted(network.cuts) == [("n1", "n2"), ("n2", "n1")]
        assert network.links["n1", "n2"].condition == Condition(True, 0.1, 0.05, 0)
        network.answer({"do": "slow", "links": [], "delay_ms": 0, "jitter_ms": 0, "bytes_per_s": 0})
        assert network.links["n1", "n2"].condition == Condition(is_cut=True)


async def test_healing_ends_cuts_and_slowness_alike() -> None:
    async with Network(CONFIG) as network:
        network.cut([("n1", "n2")])
        network.slow({("n2", "n3"): Condition(delay_s=1)})
        network.heal()
        assert {link.condition for link in network.links.values()} == {CLEAR}


async def test_an_unknown_link_is_refused_and_nothing_is_cut() -> None:
    async with Network(CONFIG) as network:
        with pytest.raises(LocalError, match="no link from n1 to n9"):
            network.cut([("n1", "n2"), ("n1", "n9")])
        assert network.cuts == []


def test_more_nodes_than_descriptors_would_allow_are_refused() -> None:
    with pytest.raises(LocalError, match="too many for --proxied"):
        Network(configuration.local(NODES_MAX + 1))


@pytest.mark.parametrize("text", ["n2", "n2=", "n2=localhost", "n2=localhost:http", "n9=localhost:1"])
def test_a_node_refuses_addresses_of_peers_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError):
        process._peers(CONFIG, text)
