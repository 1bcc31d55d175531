"""Dapr's component files: what is understood, and that nothing else is passed over in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvclient import ConfigError
from kvnode.dapr import resources
from kvnode.dapr.settings import DaprStore

COMPONENT = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: orders
spec:
  type: state.kvnode
  version: v1
  metadata: {entries}
{more}
"""


def load(directory: Path, entries: str = "[]", more: str = "", *, app_id: str = "", namespace: str = "") -> object:
    (directory / "orders.yaml").write_text(COMPONENT.format(entries=entries, more=more))
    return resources.load(directory, app_id, namespace=namespace)


def test_a_component_names_a_store(tmp_path: Path) -> None:
    assert load(tmp_path) == {"orders": DaprStore("orders", "orders")}


def test_its_settings_become_those_of_the_store(tmp_path: Path) -> None:
    entries = (
        "[{name: store, value: shop}, {name: ttlInSeconds, value: '60'}, {name: consistency, value: strong}, "
        "{name: KEYPREFIX, value: Mine}]"
    )
    assert load(tmp_path, entries) == {"orders": DaprStore("orders", "shop", "mine||", 60.0, "strong")}


@pytest.mark.parametrize(
    ("word", "app_id", "namespace", "prefix"),
    [
        ("appid", "app", "", "app||"),
        ("appid", "", "", ""),
        ("appid", "Case", "", "Case||"),
        ("name", "app", "", "orders||"),
        ("namespace", "app", "prod", "prod.app||"),
        ("namespace", "app", "", "app||"),
        ("none", "app", "", ""),
        ("SHARED", "app", "", "shared||"),
    ],
)
def test_a_key_prefix_is_what_dapr_makes_of_the_word(
    tmp_path: Path, word: str, app_id: str, namespace: str, prefix: str
) -> None:
    stores = load(tmp_path, f"[{{name: keyPrefix, value: {word}}}]", app_id=app_id, namespace=namespace)
    assert stores == {"orders": DaprStore("orders", "orders", prefix)}


@pytest.mark.parametrize(("text", "ttl_s"), [("-1", 0.0), ("0", 0.0), ("5", 5.0), ('""', None)])
def test_a_default_ttl_may_be_never(tmp_path: Path, text: str, ttl_s: float | None) -> None:
    assert load(tmp_path, f"[{{name: ttlInSeconds, value: {text}}}]") == {
        "orders": DaprStore("orders", "orders", "", ttl_s)
    }


@pytest.mark.parametrize(
    ("word", "app_id", "namespace"),
    [("mine|", "app", ""), ("appid", "app|", ""), ("appid", "a||b", ""), ("namespace", "app|", "prod")],
)
def test_no_prefix_can_reach_into_the_keys_of_another(tmp_path: Path, word: str, app_id: str, namespace: str) -> None:
    with pytest.raises(ConfigError, match="must neither hold"):
        load(tmp_path, f"[{{name: keyPrefix, value: '{word}'}}]", app_id=app_id, namespace=namespace)


def test_a_store_is_for_the_apps_in_its_scopes(tmp_path: Path) -> None:
    assert load(tmp_path, more="scopes: [one, two]", app_id="two") != {}
    assert load(tmp_path, more="scopes: [one, two]", app_id="three") == {}
    assert load(tmp_path, more="scopes: []", app_id="three") != {}


def test_a_store_that_no_app_id_can_reach_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load(tmp_path, more="scopes: [one, two]", app_id="three") == {}
    assert not caplog.records
    assert load(tmp_path, more="scopes: [one, two]") == {}
    assert 'component "orders" is left out: it is for one, two, and the gateway has no app id' in caplog.text


def test_what_is_for_other_programs_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "many.yml").write_text(
        "kind: Component\nmetadata: {name: bus}\nspec: {type: pubsub.redis}\n---\n---\nkind: Resiliency\n"
    )
    (tmp_path / "notes.txt").write_text("kind: [")
    assert load(tmp_path) == {"orders": DaprStore("orders", "orders")}


@pytest.mark.parametrize(
    ("entries", "more", "said"),
    [
        ("[{name: redisHost, value: x}]", "", '"redisHost" is not supported; known are store, keyPrefix'),
        ("[{name: actorStateStore, value: 'true'}]", "", '"actorStateStore" is not supported'),
        ("[{name: store, secretKeyRef: {name: a, key: b}}]", "", "secretKeyRef, which is not supported"),
        ("[{name: store, envRef: A}]", "", "envRef, which is not supported"),
        ("[{name: store, value: [1]}]", "", "store must be text or a whole number, not [1]"),
        ("[{name: store, value: true}]", "", "store must be text or a whole number, not True"),
        ("[{name: store, value: a}, {name: Store, value: b}]", "", "store is given twice"),
        ("[{name: store, value: ''}]", "", "store has 1 to 128 bytes"),
        ("[{name: ttlInSeconds, value: soon}]", "", 'ttlInSeconds = "soon"; a whole number from -1'),
        ("[{name: ttlInSeconds, value: -2}]", "", 'ttlInSeconds = "-2"'),
        ("[{name: ttlInSeconds, value: 2147483648}]", "", "to 2147483647"),
        ("[{name: consistency, value: weak}]", "", 'consistency = "weak"; eventual, quorum, strong'),
        ("[{name: keyPrefix, value: 'a||b'}]", "", 'keyPrefix "a||b" must not hold "||"'),
        ("{store: x}", "", "spec.metadata must be a list"),
        ("[x]", "", "entry 1 of spec.metadata must be a mapping, not 'x'"),
        ("[]", "scopes: one", "scopes must be a list of app ids, not 'one'"),
        ("[]", "auth: {secretStore: vault}", "auth names a secret store"),
    ],
)
def test_what_is_not_understood_is_refused_with_file_component_and_value(
    tmp_path: Path, entries: str, more: str, said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, entries, more)
    assert str(refused.value).startswith(f'{tmp_path / "orders.yaml"}: component "orders"')
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: [", "not valid YAML"),
        ("- a\n", "the document must be a mapping, not ['a']"),
        ("kind: Component\n", "spec must be a mapping, not None"),
        ("kind: Componet\nspec: {type: state.kvnode}\n", "is 'Componet': write Component"),
        ("kind: Component\nspec: {type: 5}\n", "spec.type must be text, not 5"),
        ("kind: Component\nmetadata: {}\nspec: {type: state.kvnode}\n", "metadata.name must be text, not None"),
        ("kind: Component\nmetadata: {name: a}\nspec: {type: state.redis}\n", "write state.kvnode"),
        ("kind: Component\nmetadata: {name: a}\nspec: {type: state.kvnode, version: v2}\n", '"v1" is the only one'),
        ("a: !!python/object:os.system {}\n", "not valid YAML"),
        ("&a [*a]\n", "the document must be a mapping"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        resources.load(tmp_path, "", namespace="")
    assert str(tmp_path / "bad.yaml") in str(refused.value)
    assert said in str(refused.value)


def test_two_components_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(COMPONENT.format(entries="[]", more=""))
    with pytest.raises(ConfigError, match='a second component is called "orders"'):
        load(tmp_path)


def test_a_directory_that_is_not_there_and_a_file_beyond_its_bound_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        resources.load(tmp_path / "nowhere", "", namespace="")
    (tmp_path / "big.yaml").write_bytes(b"#" * (resources.FILE_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="more than 1048576 bytes"):
        resources.load(tmp_path, "", namespace="")
