"""The facts about the gateway, and how much callers may add to them."""

from __future__ import annotations

import pytest

from kvnode.dapr.about import ATTRIBUTE_BYTES_MAX, ATTRIBUTES_MAX, About
from kvnode.dapr.errors import StateError
from kvnode.dapr.settings import DaprStore, GatewaySettings


@pytest.fixture
def about() -> About:
    return About(GatewaySettings((), "c", {"s": DaprStore("s", "users", type="state.other", version="v2")}, "app"))


def test_every_store_is_listed_with_what_it_can_do(about: About) -> None:
    facts = about.facts()
    assert facts["id"] == "app"
    component = {"name": "s", "type": "state.other", "version": "v2", "capabilities": ["ETAG", "TTL"]}
    assert facts["components"] == [component]


def test_attributes_can_be_added_and_replaced_but_not_those_of_the_gateway(about: About) -> None:
    about.set("a", "1")
    about.set("a", "2")
    about.set("daprRuntimeVersion", "0")
    assert about.attributes["a"] == "2"
    assert about.attributes["daprRuntimeVersion"] != "0"


def test_attributes_are_bounded(about: About) -> None:
    with pytest.raises(StateError, match="bytes"):
        about.set("a", "é" * (ATTRIBUTE_BYTES_MAX // 2))
    for number in range(ATTRIBUTES_MAX):
        about.set(f"a{number}", "")
    with pytest.raises(StateError, match="the most"):
        about.set("one more", "")
    about.set("a0", "again")
