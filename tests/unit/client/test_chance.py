"""The client draws every random number through `chance`: whoever replaces it there decides them all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import kvclient
from kvclient import chance
from kvclient.session import SESSION_BYTES, Session

_SOURCES = sorted(Path(kvclient.__file__).parent.rglob("*.py"))


def test_a_session_is_named_by_whatever_stands_in_for_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chance, "some_bytes", lambda count: b"x" * count)
    assert Session().id == b"x" * SESSION_BYTES


@pytest.mark.parametrize("source", _SOURCES, ids=lambda path: path.stem)
def test_no_other_module_of_the_client_draws_or_reads_a_clock(source: Path) -> None:
    """Time is the event loop's, randomness is `chance`'s: so a seed decides a whole run."""
    tree = ast.parse(source.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    if source.stem != "chance":
        assert not imported & {"random", "secrets", "time", "uuid"}
        assert not attributes & {"urandom", "now", "utcnow", "today"}
