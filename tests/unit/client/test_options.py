"""Arguments out of bounds are refused before anything is sent; r and w are raised as the consistency needs (R27)."""

from __future__ import annotations

import math
from typing import Any

import pytest

from kvclient.addresses import Address, seeds_of
from kvclient.errors import ConfigError, InvalidRequest
from kvclient.options import (
    Options,
    ReadPlan,
    StoreSettings,
    WritePlan,
    etag_on_wire,
    key_bytes,
    plan_read,
    plan_write,
    prefix_check,
    settings_of,
    store_prefix,
    timeout_s_of,
    ttl_ms_of,
)

FIVE = StoreSettings(replicas=5, q2=4)


@pytest.mark.parametrize(
    ("options", "plan"),
    [
        (Options(), ReadPlan(0, 1)),
        (Options(r=5), ReadPlan(0, 5)),
        (Options(consistency="quorum"), ReadPlan(0, 3)),
        (Options(consistency="quorum", r=4), ReadPlan(0, 4)),
        (Options(consistency="strong"), ReadPlan(1, 0)),
        (Options(consistency="strong", r=3), ReadPlan(1, 3)),
    ],
)
def test_a_read_waits_for_no_fewer_than_its_consistency_needs(options: Options, plan: ReadPlan) -> None:
    assert plan_read(FIVE, options) == plan


@pytest.mark.parametrize(
    ("options", "plan"),
    [
        (Options(), WritePlan(False, False, 1, 0)),
        (Options(w="any"), WritePlan(False, False, 0, 0)),
        (Options(w=4), WritePlan(False, False, 4, 4)),
        (Options(consistency="quorum"), WritePlan(False, False, 3, 0)),
        (Options(consistency="quorum", w="any"), WritePlan(False, False, 3, 3)),
        (Options(consistency="quorum", w=5), WritePlan(False, False, 5, 5)),
        (Options(consistency="strong"), WritePlan(True, False, 1, 0)),
        (Options(consistency="strong", w=5), WritePlan(True, False, 5, 5)),
        (Options(concurrency="first-write"), WritePlan(True, True, 1, 0)),
    ],
)
def test_a_write_waits_for_no_fewer_than_its_consistency_needs(options: Options, plan: WritePlan) -> None:
    assert plan_write(FIVE, options) == plan


@pytest.mark.parametrize("r", [0, -1, 6, 1.0, "2", True, "any", b"1"])
def test_r_outside_of_1_to_n_is_refused(r: Any) -> None:
    with pytest.raises(InvalidRequest, match="r"):
        plan_read(FIVE, Options(r=r))


@pytest.mark.parametrize("w", [0, -1, 6, 1.0, "2", True, "all", b"any"])
def test_w_that_is_neither_1_to_n_nor_any_is_refused(w: Any) -> None:
    with pytest.raises(InvalidRequest, match="w"):
        plan_write(FIVE, Options(w=w))


@pytest.mark.parametrize("word", ["", "STRONG", "linearizable", 1, b"strong", ["strong"]])
def test_unknown_words_are_refused(word: Any) -> None:
    with pytest.raises(InvalidRequest, match="consistency"):
        plan_read(FIVE, Options(consistency=word))
    with pytest.raises(InvalidRequest, match="concurrency"):
        plan_write(FIVE, Options(concurrency=word))


def test_the_call_wins_over_the_store_and_the_store_over_the_client() -> None:
    client = Options(consistency="strong", r=2, timeout=1.0)
    store = Options(consistency="quorum", w="any").over(client)
    assert Options(r=3).over(store) == Options(consistency="quorum", r=3, w="any", timeout=1.0)


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, -math.inf, "1", b"1", True, 1e12, [1]])
def test_absurd_times_are_refused(seconds: Any) -> None:
    with pytest.raises(InvalidRequest):
        ttl_ms_of(seconds)
    with pytest.raises(InvalidRequest):
        timeout_s_of(seconds, 3600)


def test_times_within_bounds_are_milliseconds_on_the_wire() -> None:
    assert (ttl_ms_of(0.0001), ttl_ms_of(1.5), ttl_ms_of(60), ttl_ms_of("never")) == (1, 1500, 60_000, 0)
    assert timeout_s_of(3600, 3600) == 3600.0


@pytest.mark.parametrize("key", ["", "k" * 1025, "é" * 513, "\ud800", 1, None, b"k", ["k"]])
def test_keys_out_of_bounds_are_refused_and_never_converted(key: Any) -> None:
    with pytest.raises(InvalidRequest):
        key_bytes(key)


@pytest.mark.parametrize("key", ["k", "k" * 1024, "é" * 512, "\0", "a\0b", " "])
def test_keys_within_bounds_are_taken(key: str) -> None:
    assert key_bytes(key) == key.encode()


@pytest.mark.parametrize("store", ["", "s" * 129, "a\0b", "\ud800", 1, None, b"s"])
def test_store_names_out_of_bounds_are_refused(store: Any) -> None:
    with pytest.raises(InvalidRequest):
        store_prefix(store)


@pytest.mark.parametrize("prefix", ["p" * 1025, "\udfff", 1, None])
def test_prefixes_out_of_bounds_are_refused(prefix: Any) -> None:
    with pytest.raises(InvalidRequest):
        prefix_check(prefix)


def test_an_etag_that_names_no_version_stays_a_mismatch_that_can_be_sent() -> None:
    assert etag_on_wire(None) == ""
    assert etag_on_wire("abc") == "abc"
    assert etag_on_wire("x" * 10_000_000) == etag_on_wire("\ud800") == "?"


def test_settings_take_what_they_know_and_ignore_what_a_newer_node_adds() -> None:
    assert settings_of({"replicas": 1, "q2": 1, "durability": "os", "news": 1}) == StoreSettings(replicas=1, q2=1)


@pytest.mark.parametrize(
    ("where", "addresses"),
    [
        ("127.0.0.1:7401", [("127.0.0.1", 7401)]),
        ("a:1, b:2,a:1", [("a", 1), ("b", 2)]),
        (["a:1", "[::1]:2"], [("a", 1), ("::1", 2)]),
    ],
)
def test_addresses_are_host_and_port(where: Any, addresses: list[tuple[str, int]]) -> None:
    assert seeds_of(where).addresses == tuple(Address(*address) for address in addresses)


@pytest.mark.parametrize(
    "where", ["", "a", "a:", ":1", "a:0", "a:65536", "a:x", "a:-1", "a:\uff11", [], [1], 7, "a:1,,b:1"]
)
def test_what_is_no_address_is_refused(where: Any) -> None:
    with pytest.raises(InvalidRequest):
        seeds_of(where)


def test_of_cluster_toml_only_nodes_and_name_are_read(tmp_path: Any) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text('[cluster]\nname = "c"\nfuture = 1\n[[nodes]]\nid = "n"\nhost = "h"\nport = 7\n[whatever]\n')
    assert seeds_of(str(path)) == seeds_of(path) == ((Address("h", 7),), "c")


@pytest.mark.parametrize(
    "text",
    ["[cluster", "", "nodes = 3", "[[nodes]]\nhost = 'h'", "[[nodes]]\nhost = 'h'\nport = 'x'", "nodes = [1]"],
)
def test_a_configuration_without_addresses_is_a_config_error(tmp_path: Any, text: str) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"cluster\.toml"):
        seeds_of(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        seeds_of(tmp_path / "absent.toml")
