"""Dapr's component files (`--resources-path`) -> `DaprStore`s, with the names and defaults that a sidecar would take.

Decides: which fields of a component of type state.kvnode are understood, and that what is not understood is refused
with its file and name: a setting that is read and forgotten would be a promise broken in silence.  Components that are
no state stores, and documents of other kinds, belong to other programs and are passed over.

A component is `spec.type: state.kvnode` with these entries of `spec.metadata`, all optional:

- `store`: the store of the cluster, 1 to 128 bytes; default: the component's name.
- `keyPrefix`: `appid` (default), `name`, `namespace`, `none`, or a word of one's own.
- `ttlInSeconds`: of writes that do not say; -1 or 0: never.
- `consistency`: of requests that do not say: `eventual`, `quorum` or `strong`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from kvclient import ConfigError, Consistency
from kvclient.wire.values import STORE_BYTES_MAX
from kvnode.dapr.settings import SEPARATOR, DaprStore

TYPE = "state.kvnode"
VERSIONS = ("", "v0", "v1")
FILE_BYTES_MAX = 1 << 20
FILES_MAX = 1000
TTL_S_MAX = 2**31 - 1
_log = logging.getLogger("kvnode.dapr")
_PROPERTIES = ("store", "keyPrefix", "ttlInSeconds", "consistency")
_CONSISTENCIES: tuple[Consistency, ...] = ("eventual", "quorum", "strong")


def key_prefix(word: str, name: str, app_id: str, namespace: str) -> str:
    """Return what stands before every key, as Dapr's `keyPrefix` says it.  Raises ConfigError."""
    if SEPARATOR in word:
        raise ConfigError(f'keyPrefix "{word:.80}" must not hold "{SEPARATOR}", which separates it from the key')
    match word.lower():
        case "" | "appid":
            chosen = app_id
        case "name":
            chosen = name
        case "namespace":
            chosen = f"{namespace}.{app_id}" if namespace else app_id
        case "none":
            chosen = ""
        case own:
            chosen = own
    if SEPARATOR in chosen or chosen.endswith(SEPARATOR[0]):
        # The key "|k" of the app "a" and the key "k" of the app "a|" would be one key.
        raise ConfigError(
            f'the prefix "{chosen:.80}" of keys must neither hold "{SEPARATOR}" nor end in "{SEPARATOR[0]}"'
        )
    return f"{chosen}{SEPARATOR}" if chosen else ""


def load(directory: Path, app_id: str, *, namespace: str | None = None) -> dict[str, DaprStore]:
    """Return the state stores that the component files of a directory name, for one app.

    Files are those that end in .yaml or .yml, in the order of their names; each holds one or more documents.  A store
    whose `scopes` do not name `app_id` is left out.  `namespace`: default from the environment (NAMESPACE).

    Raises ConfigError, whose text names the file, the component and the value.
    """
    namespace = os.environ.get("NAMESPACE", "") if namespace is None else namespace
    stores: dict[str, DaprStore] = {}
    for path, document in _documents(directory):
        try:
            store = _store(document, app_id, namespace)
            if store is not None and store.name in stores:
                raise ConfigError(f'a second component is called "{store.name}"; each needs a name of its own')
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        if store is not None:
            stores[store.name] = store
    return stores


def _documents(directory: Path) -> Iterator[tuple[Path, object]]:
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix in (".yaml", ".yml") and path.is_file())
    except OSError as error:
        raise ConfigError(f"the component files in {directory} cannot be read: {error.strerror}") from error
    if len(paths) > FILES_MAX:
        raise ConfigError(f"{directory} holds {len(paths)} component files; at most {FILES_MAX} are read")
    for path in paths:
        yield from ((path, document) for document in _parsed(path))


def _parsed(path: Path) -> list[object]:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
        if len(raw) > FILE_BYTES_MAX:
            raise ConfigError(f"{path} has more than {FILE_BYTES_MAX} bytes; a component file is smaller")
        return list(yaml.safe_load_all(raw))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where is not None else ""
        raise ConfigError(f"{path}: not valid YAML{line}: {getattr(error, 'problem', None) or error}") from error


def _refuse_a_store_of_another_kind(document: Mapping[str, object]) -> None:
    spec = document.get("spec")
    if isinstance(spec, Mapping) and spec.get("type") == TYPE:
        raise ConfigError(
            f"the kind of a document with spec.type {TYPE} is {document.get('kind')!r:.80}: write Component"
        )


def _store(document: object, app_id: str, namespace: str) -> DaprStore | None:
    """Return the store that a document describes for this app; None if it describes no state store, or not for it."""
    if document is None:
        return None
    component = _mapping(document, "the document")
    if component.get("kind") != "Component":
        _refuse_a_store_of_another_kind(component)
        return None
    spec = _mapping(component.get("spec"), "spec")
    kind = _text(spec.get("type"), "spec.type").lower()
    if not kind.startswith("state."):
        return None
    name = _text(_mapping(component.get("metadata"), "metadata").get("name"), "metadata.name")
    where = f'component "{name:.80}"'
    if kind != TYPE:
        raise ConfigError(f'{where}: spec.type is "{kind:.80}", which this gateway cannot serve: write {TYPE}')
    version = spec.get("version", "v1")
    if version not in VERSIONS:
        raise ConfigError(f'{where}: spec.version is "{version!s:.80}"; "v1" is the only one')
    if component.get("auth") is not None:
        raise ConfigError(f"{where}: auth names a secret store, but no setting of {TYPE} is a secret: remove it")
    properties = _properties(spec.get("metadata"), where)
    scopes = component.get("scopes") or []
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise ConfigError(f"{where}: scopes must be a list of app ids, not {scopes!r:.80}")
    if scopes and app_id not in scopes:
        if not app_id:  # or everybody in the scopes is somebody else
            _log.warning("%s is left out: it is for %s, and the gateway has no app id", where, ", ".join(scopes))
        return None
    return _made(name, where, properties, app_id, namespace)


def _properties(raw: object, where: str) -> dict[str, str]:
    """Return the entries of spec.metadata by name."""
    found: dict[str, str] = {}
    if not isinstance(raw or [], list):
        raise ConfigError(f"{where}: spec.metadata must be a list of names and values, not {raw!r:.80}")
    known = {name.lower(): name for name in _PROPERTIES}
    for number, item in enumerate(raw or [], 1):  # type: ignore[arg-type, var-annotated]
        entry = _mapping(item, f"{where}: entry {number} of spec.metadata")
        said = _text(entry.get("name"), f"{where}: the name of entry {number} of spec.metadata")
        name = known.get(said.lower())
        if name is None:
            raise ConfigError(f'{where}: "{said:.80}" is not supported; known are {", ".join(_PROPERTIES)}')
        for reference in ("secretKeyRef", "envRef"):
            if reference in entry:
                raise ConfigError(f"{where}: {name} is a {reference}, which is not supported: write its value")
        if name in found:
            raise ConfigError(f"{where}: {name} is given twice; one of them must go")
        value = entry.get("value")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ConfigError(f"{where}: {name} must be text or a whole number, not {value!r:.80}")
        found[name] = str(value)
    return found


def _made(name: str, where: str, properties: Mapping[str, str], app_id: str, namespace: str) -> DaprStore:
    store = properties.get("store", name)
    if not 1 <= len(store.encode()) <= STORE_BYTES_MAX or "\0" in store:
        raise ConfigError(f"{where}: store has 1 to {STORE_BYTES_MAX} bytes of UTF-8 and no NUL, not {store!r:.80}")
    consistency = properties.get("consistency")
    chosen = next((word for word in _CONSISTENCIES if word == consistency), None)
    if consistency is not None and chosen is None:
        raise ConfigError(f'{where}: consistency = "{consistency:.80}"; {", ".join(_CONSISTENCIES)} are the choices')
    try:
        prefix = key_prefix(properties.get("keyPrefix", ""), name, app_id, namespace)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return DaprStore(name, store, prefix, _ttl_s(properties.get("ttlInSeconds"), where), chosen)


def _ttl_s(text: str | None, where: str) -> float | None:
    if text is None or not text.strip():
        return None
    try:
        seconds = int(text)
    except ValueError:
        seconds = TTL_S_MAX + 1
    if not -1 <= seconds <= TTL_S_MAX:
        raise ConfigError(f'{where}: ttlInSeconds = "{text:.80}"; a whole number from -1 (never) to {TTL_S_MAX}')
    return float(max(seconds, 0))


def _mapping(raw: object, what: str) -> Mapping[str, Any]:
    if not isinstance(raw, dict):
        raise ConfigError(f"{what} must be a mapping, not {raw!r:.80}")
    return raw


def _text(raw: object, what: str) -> str:
    if not isinstance(raw, str) or not raw:
        raise ConfigError(f"{what} must be text, not {raw!r:.80}")
    return raw
