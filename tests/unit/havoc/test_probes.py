"""What a node with a full disk is asked, and which answers are right."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kvclient import KvError, OutcomeUnknown, Overloaded
from scripts.havoc import probes
from scripts.havoc.probes import Probe


class ScriptedKv:
    """A connection to one node which answers every write, and every read, alike."""

    def __init__(self, write: KvError | None = None, read: Any = "before") -> None:
        self.write, self.read = write, read

    async def __aenter__(self) -> ScriptedKv:
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    async def get(self, key: str, **options: Any) -> Any:
        if isinstance(self.read, KvError):
            raise self.read
        return None if self.read is None else SimpleNamespace(value=self.read)

    async def put(self, key: str, value: str, **options: Any) -> None:
        if self.write is not None:
            raise self.write

    async def delete(self, key: str, **options: Any) -> None:
        await self.put(key, "")


CLUSTER: Any = SimpleNamespace(address=lambda name: name, replicas=3)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ask a node that answers as scripted, and return what was found."""

    async def ask(kv: ScriptedKv, question: Any) -> list[Probe]:
        async def connect_to(address: str) -> ScriptedKv:
            return kv

        found: list[Probe] = []
        monkeypatch.setattr(probes, "connect_to", connect_to)
        monkeypatch.setattr(probes, "COME_BACK_S", 0.0)
        await question(CLUSTER, {"n1": "k"}, found.append)
        return found

    return ask


@pytest.mark.parametrize(
    ("write", "is_right"), [(Overloaded("full"), True), (OutcomeUnknown("perhaps"), False), (None, False)]
)
async def test_below_the_reserve_every_write_must_be_refused_as_not_applied(
    asked: Any, write: KvError | None, is_right: bool
) -> None:
    found = await asked(ScriptedKv(write), probes.be_refused)
    assert len(found) == 5
    assert {probe.is_right for probe in found} == {is_right}


@pytest.mark.parametrize(
    ("read", "is_right"), [("before", True), ("no", False), (None, False), (Overloaded("x"), False)]
)
async def test_below_the_reserve_reads_must_show_what_was_there(asked: Any, read: Any, is_right: bool) -> None:
    found = await asked(ScriptedKv(read=read), probes.read)
    assert [probe.is_right for probe in found] == [is_right] * 2


@pytest.mark.parametrize(
    ("write", "read", "is_right"),
    [(None, "before", True), (None, "no", False), (Overloaded("full"), "before", False)],
)
async def test_with_room_again_writes_must_succeed_and_nothing_that_was_refused_may_show(
    asked: Any, write: KvError | None, read: str, is_right: bool
) -> None:
    (found,) = await asked(ScriptedKv(write, read), probes.write)
    assert found.is_right == is_right


@pytest.mark.parametrize(("failure", "is_right"), [(OutcomeUnknown("perhaps"), True), (Overloaded("full"), False)])
async def test_what_was_tried_with_room_again_may_show_unless_it_was_refused(
    asked: Any, monkeypatch: pytest.MonkeyPatch, failure: KvError, is_right: bool
) -> None:
    class Held(ScriptedKv):
        """Fails the first write, and holds its value all the same."""

        async def put(self, key: str, value: str, **options: Any) -> None:
            failed, self.write, self.read = self.write, None, value
            if failed is not None:
                raise failed

    async def ask(*args: Any) -> None:
        monkeypatch.setattr(probes, "COME_BACK_S", 5.0)
        await probes.write(*args)

    (found,) = await asked(Held(failure), ask)
    assert found.is_right == is_right
