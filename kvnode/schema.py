"""Checked tables: a dataclass whose fields carry their bounds, filled from a mapping of unknown quality.

Decides: how a value from a file is judged (known key, type, bound) and how the refusal reads.  Leaves to others: which
keys there are (`config`) and how keys relate to each other.

A field made by `integer`, `number`, `choice` or `text` keeps its default and its bound in one place; `read_table`
walks the fields, so a new key is refused, documented and written back without another line of code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from kvclient.errors import ConfigError

_SPEC = "spec"


@dataclass(frozen=True, slots=True)
class Spec:
    """What a field accepts: its type, its bounds or choices, and the words for them."""

    kind: type
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()
    unit: str = ""
    key: str = ""
    """The key in the file where it is not the field's name."""

    def expected(self) -> str:
        """Return what the field accepts, in words."""
        if self.choices:
            return " or ".join(f'"{choice}"' for choice in self.choices)
        what = {int: "an integer", float: "a number", str: "a string"}[self.kind] + (
            f" of {self.unit}" if self.unit else ""
        )
        unit = " characters" if self.kind is str else ""
        return f"{what} from {self.low:.16g} to {self.high:.16g}{unit}"

    def accepts_type(self, value: object) -> bool:
        """Return whether `value` has the field's type; True is not 1, but 1 is 1.0."""
        return type(value) is self.kind or (self.kind is float and type(value) is int)

    def accepts(self, value: Any) -> bool:
        """Return whether a value of the right type is within the bounds; NaN never is."""
        if self.choices:
            return value in self.choices
        return self.low <= (len(value) if self.kind is str else value) <= self.high


def integer(default: int, low: int, high: int, unit: str = "", key: str = "") -> Any:
    """Declare an integer field with inclusive bounds."""
    return field(default=default, metadata={_SPEC: Spec(int, low, high, unit=unit, key=key)})


def number(default: float, low: float, high: float, unit: str = "", key: str = "") -> Any:
    """Declare a float field with inclusive bounds; the file may hold an integer."""
    return field(default=default, metadata={_SPEC: Spec(float, low, high, unit=unit, key=key)})


def choice(default: str, *others: str) -> Any:
    """Declare a string field with a fixed set of values, the default first."""
    return field(default=default, metadata={_SPEC: Spec(str, choices=(default, *others))})


def text(low: int, high: int, default: str | None = None) -> Any:
    """Declare a string field of `low` to `high` characters; without a default the key is required."""
    spec = {_SPEC: Spec(str, low, high)}
    return field(metadata=spec) if default is None else field(default=default, metadata=spec)


def port(default: int | None = None) -> Any:
    """Declare a TCP port; without a default the key is required."""
    spec = {_SPEC: Spec(int, 1, 65535)}
    return field(metadata=spec) if default is None else field(default=default, metadata=spec)


def table_fields(table: type) -> dict[str, tuple[Field[Any], Spec]]:
    """Return the fields of a checked dataclass that a file may set, by their key in the file."""
    found = {}
    for item in fields(table):
        spec = item.metadata.get(_SPEC)
        if spec is not None:
            found[spec.key or item.name] = (item, spec)
    return found


def check_keys(raw: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raise ConfigError for the first key of `raw` that is not known, naming the nearest known one."""
    known = list(known)
    for key in raw:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.5)
            hint = f'did you mean "{near[0]}"?' if near else "known are: " + ", ".join(known)
            raise ConfigError(f'{where}: unknown key "{key}"; {hint}')


def check_mapping(raw: object, where: str) -> Mapping[str, Any]:
    """Return `raw` if it is a table; raise ConfigError otherwise."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where} is {_shown(raw)}; a table is expected")
    return raw


def read_table(table: type, raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the fields that `raw` sets, each checked, by field name.

    Raises ConfigError for an unknown key, a wrong type, a value out of bounds, or a required key that is missing.
    """
    known = table_fields(table)
    check_keys(raw, known, where)
    values: dict[str, Any] = {}
    for key, (item, spec) in known.items():
        if key in raw:
            values[item.name] = _checked(raw[key], spec, f"{where} {key}")
        elif item.default is MISSING:
            raise ConfigError(f"{where}: the key {key} is missing; {spec.expected()} is expected")
    return values


def _checked(value: Any, spec: Spec, where: str) -> Any:
    if not spec.accepts_type(value):
        raise ConfigError(f"{where} = {_shown(value)}; {spec.expected()} is expected")
    if not spec.accepts(value):
        verb = "is not one of the choices" if spec.choices else "is out of bounds"
        raise ConfigError(f"{where} = {_shown(value)} {verb}; {spec.expected()} is expected")
    return spec.kind(value)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return f"{str(value).lower()} (a boolean)"
    names = {int: "an integer", float: "a number", str: "a string", list: "an array", dict: "a table"}
    shown = f'"{value}"' if isinstance(value, str) else f"{value}"
    return f"{shown:.60} ({names.get(type(value), type(value).__name__)})"
