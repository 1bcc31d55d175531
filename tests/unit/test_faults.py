"""Faults on purpose: what a faults file may say, and that the engine and the clock do it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kvclient.errors import ConfigError
from kvclient.wire.values import Ballot
from kvnode import faults, process
from kvnode.config import Limits
from kvnode.core.record import EMPTY_IMAGE
from kvnode.faults import HEALTHY, Faults, Follower
from kvnode.runtime import RealClock

KEY = b"\0\1default\0k"
IMAGE = EMPTY_IMAGE._replace(promised=Ballot(bytes(27) + b"\1"))


class Bench:
    """A follower and its engine, over a folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = folder / "n1.json"
        self.clock = RealClock(7)
        self.failures: list[BaseException] = []
        self._failed = asyncio.Event()
        monkeypatch.setattr(faults, "POLL_S", 0.0)
        loop = asyncio.get_running_loop()
        self.follower = Follower(self.path, self.clock, loop)
        self.engine = self.follower.open_engine(folder / "rows", Limits(), self._on_failure, loop, create=True)

    def _on_failure(self, error: BaseException) -> None:
        self.failures.append(error)
        self._failed.set()

    async def become(self, **facts: Any) -> None:
        draft = self.path.with_suffix(".new")
        draft.write_text(json.dumps(facts))
        draft.replace(self.path)
        async with asyncio.timeout(10):
            while self.engine.faults != Faults(**facts):
                await asyncio.sleep(0)

    async def put(self) -> None:
        done = asyncio.Event()
        self.engine.put(KEY, IMAGE, sync=True, then=done.set)
        waiting = {asyncio.ensure_future(done.wait()), asyncio.ensure_future(self._failed.wait())}
        _, pending = await asyncio.wait(waiting, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    (tmp_path / "rows").mkdir()
    made = Bench(tmp_path, monkeypatch)
    yield made
    await made.engine.close()


async def test_a_clock_follows_its_file_and_comes_back(bench: Bench) -> None:
    await bench.become(clock_offset_ms=-300_000)
    assert bench.clock.offset_ms == 7 - 300_000
    await bench.become()
    assert bench.clock.offset_ms == 7


@pytest.mark.parametrize(("failure", "stays"), [("lost", False), ("kept", True)])
async def test_a_sync_fails_once_and_for_all(bench: Bench, failure: str, stays: bool) -> None:
    """R45: the engine reports it, acknowledges nothing any more, and what became of the row nobody can know."""
    await bench.become(sync_failure=failure)
    await bench.put()
    assert "made on purpose" in str(bench.failures)
    assert (bench.engine.load(KEY) is not None) is stays


async def test_a_full_disk_refuses_and_has_room_again(bench: Bench) -> None:
    await bench.become(is_full=True)
    await bench.put()
    assert not bench.engine.writable
    await bench.become()
    assert bench.engine.writable


async def test_a_slow_sync_is_acknowledged_all_the_same(bench: Bench) -> None:
    await bench.become(sync_delay_s=0.001)
    await bench.put()
    assert bench.engine.load(KEY) == IMAGE


def test_without_a_file_nothing_is_wrong(tmp_path: Path) -> None:
    assert faults.load(tmp_path / "n1.json") == HEALTHY


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON: Expecting value"),
        ("\xff", "is not JSON"),
        ("[]", "holds []; an object with what is wrong with a node is expected"),
        ('{"clock": 1}', 'there is no fault "clock"; there are clock_offset_ms, sync_delay_s, sync_failure, is_full'),
        ('{"sync_failure": "perhaps"}', 'sync_failure = "perhaps"; "" or "lost" or "kept" is expected'),
        ('{"sync_failure": []}', "sync_failure = []"),
        ('{"clock_offset_ms": "5"}', 'clock_offset_ms = "5"; an integer of milliseconds is expected'),
        ('{"clock_offset_ms": 0.5}', "clock_offset_ms = 0.5"),
        ('{"clock_offset_ms": true}', "clock_offset_ms = true"),
        ('{"sync_delay_s": "long"}', 'sync_delay_s = "long"; a number of seconds from 0 to 60 is expected'),
        ('{"sync_delay_s": -1}', "sync_delay_s = -1"),
        ('{"sync_delay_s": NaN}', "sync_delay_s = NaN"),
        ('{"sync_delay_s": null}', "sync_delay_s = null"),
        ('{"is_full": 1}', "is_full = 1; true or false is expected"),
    ],
)
def test_a_file_that_says_something_else_is_refused_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "n1.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=re.escape(said)) as refusal:
        faults.load(path)
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        faults.load(tmp_path)


def test_whole_seconds_are_seconds(tmp_path: Path) -> None:
    path = tmp_path / "n1.json"
    path.write_text('{"sync_delay_s": 1}')
    assert faults.load(path) == Faults(sync_delay_s=1)


def test_a_node_that_goes_wrong_on_purpose_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A variable left over from a test must not go unnoticed in production."""
    monkeypatch.setenv(process.FAULTS_VARIABLE, "/faults")
    monkeypatch.delenv(process.CLOCK_OFFSET_VARIABLE, raising=False)
    process._warn_of_faults()
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["KVNODE_FAULTS=/faults"]
