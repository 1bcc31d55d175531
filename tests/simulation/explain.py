"""The timeline of one key in one run: what clients asked and got, what nodes said to each other, what disks held.

Decides: which of a run's thousands of moments concern the key, and how each is told in one line.  Leaves to others: the
run, which is the same with and without a listener, and the colours (`scripts/simulate.py`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from checkers.operation import describe
from simulation.clocks import WALL_EPOCH_MS
from simulation.loop import EPOCH_S
from simulation.rest import own_key
from simulation.run import Trial, problems
from simulation.scenario import Scenario
from simulation.violation import Violation

from kvclient.wire import messages as m
from kvclient.wire.frames import Decoder
from kvclient.wire.values import BODY_HEADER_BYTES, body_content, body_version
from kvnode.core.record import Image
from kvnode.core.register import digest_parse

Sort = Literal["fault", "client", "message", "disk", "verdict"]

_BALLOT: Final = struct.Struct(">QQIQ")
_FRAME_BYTES_MAX: Final = 64 << 20
_KEY_AT: Final = {m.PREPARE: 3, m.ACCEPT: 3, m.COMMIT: 2, m.UNKNOWN_BALLOT: 1, m.READ: 3, m.ENTRY: 3}
_NAME_AT: Final = {m.GET: 2, m.MUTATE: 2, m.WRITE: 2, m.STAMP: 2}
_REPLIES: Final = frozenset({m.PROMISE, m.ACCEPTED, m.NACK, m.UNSEEN, m.REFUSED, m.DIGEST, m.WRITTEN})
_NAMES: Final = {
    kind: name.lower()
    for name, kind in vars(m).items()
    if name.isupper() and isinstance(kind, int) and kind in m.SHAPES
}


@dataclass(frozen=True)
class Line:
    """One moment."""

    at_ms: float
    sort: Sort
    who: str
    what: str


def key_of(scenario: Scenario, text: str) -> str:
    """Return the key that a problem's text names, or the first of the scenario."""
    words = text.replace("'", " ").replace("/", " ").replace(":", " ").replace(",", " ").split()
    keys = (*scenario.keys, *map(own_key, range(scenario.cluster.nodes)))
    return next((key for key in keys if key in words), keys[0])


def explain(scenario: Scenario, key: str) -> list[Line]:
    """Run a scenario again and return the timeline of a key."""
    trial = Trial(scenario)
    telling = _Telling(trial, key)
    try:
        with problems():
            trial.go()
    except Violation as violation:
        telling.tell("verdict", "", str(violation))
    telling.tell_operations()
    trial.world.close()
    return sorted(telling.lines, key=lambda line: line.at_ms)


class _Telling:
    """Listens to a run."""

    def __init__(self, trial: Trial, key: str) -> None:
        self.lines: list[Line] = []
        self._trial, self._key = trial, key
        self._name = b"default\0" + key.encode()
        self._decoders: dict[tuple[str, str, int], Decoder] = {}
        self._asked: set[tuple[str, str, int]] = set()
        """Requests about the key that wait: from, to, number."""
        self._disks: dict[int, str] = {}
        world = trial.world
        self._hosts = {host.node_id: host.name for host in world.hosts}
        world.on_event = lambda kind, at, *facts: self.tell("fault", "", " ".join((kind, *facts)))
        world.network.on_bytes = self._on_bytes
        for host in world.hosts:
            host.disk.on_written = self._also(host.disk.on_written)

    def tell(self, sort: Sort, who: str, what: str) -> None:
        """Add a line."""
        self.lines.append(Line(self._trial.world.now_ms, sort, who, what))

    def tell_operations(self) -> None:
        """Add what clients asked and got, once the run is over."""
        watch = self._trial.watch
        for operation in (*watch.recorder.operations, *watch.last_writes.operations):
            if operation.key != self._key:
                continue
            who = f"process {operation.process}"
            asked = describe(operation).partition(" -> ")[0]
            self.lines.append(Line(operation.call_ns / 1e6 - EPOCH_S * 1000, "client", who, f"asks: {asked}"))
            if operation.return_ns is not None:
                at_ms = operation.return_ns / 1e6 - EPOCH_S * 1000
                self.lines.append(Line(at_ms, "client", who, describe(operation)))

    # -- disks

    def _also(self, before: Callable[[int, bytes, Image], None] | None) -> Callable[[int, bytes, Image], None]:
        def on_written(index: int, key: bytes, image: Image) -> None:
            if key[2:] == self._name:
                held = self._image(image)
                if self._disks.get(index) != held:
                    self._disks[index] = held
                    self.tell("disk", self._trial.world.hosts[index].name, held)
            if before is not None:
                before(index, key, image)

        return on_written

    def _image(self, image: Image) -> str:
        parts = [f"promised {self._ballot(image.promised)}"]
        if image.accepted_ballot:
            parts.append(f"accepted {self._ballot(image.accepted_ballot)} {self._body(image.accepted.body)}")
        if image.committed_ballot:
            parts.append(f"committed {self._ballot(image.committed_ballot)} {self._body(image.committed.body)}")
        if image.overlay:
            parts.append(f"overlay {self._body(image.overlay[1:])}")
        return "; ".join(parts)

    # -- messages

    def _on_bytes(self, source: str, target: str, number: int, data: bytes) -> None:
        decoder = self._decoders.setdefault((source, target, number), Decoder(_FRAME_BYTES_MAX))
        for batch in decoder.feed(data):
            for message in batch:
                self._on_message(source, target, message)

    def _on_message(self, source: str, target: str, message: list[Any]) -> None:
        kind = message[0]
        if kind == m.MARKS:
            for key, ballot in zip(message[2][::2], message[2][1::2], strict=True):
                if key[2:] == self._name:
                    self.tell("message", f"{source} > {target}", f"mark {self._ballot(ballot)}")
            return
        if (kind in _KEY_AT and message[_KEY_AT[kind]][2:] == self._name) or (
            kind in _NAME_AT and message[_NAME_AT[kind]] == self._name
        ):
            if kind not in (m.COMMIT, m.UNKNOWN_BALLOT):
                self._asked.add((source, target, message[1]))
        elif not (kind in _REPLIES | m.CLIENT_ANSWERS and (target, source, message[1]) in self._asked):
            return
        self.tell("message", f"{source} > {target}", self._message(message))

    def _message(self, message: list[Any]) -> str:
        tell = _TELL.get(message[0])
        return f"{_NAMES[message[0]]} {tell(self, message)}" if tell else _NAMES[message[0]]

    def _promise(self, message: list[Any]) -> str:
        _, _, accepted, body, _, committed, committed_body, _, entry, _, _, before = message
        parts = [f"accepted {self._ballot(accepted)} {self._body(body)}"] if accepted else []
        parts += [f"committed {self._ballot(committed)} {self._body(committed_body)}"] if committed else []
        parts += [f"overlay {self._body(entry[1:])}"] if entry else []
        return "; ".join([*parts, f"before {self._ballot(before)}"])

    def _accept(self, message: list[Any]) -> str:
        _, _, _, _, ballot, body, _, base, following, commit = message
        cached = " without a prepare" if base else ""
        mark = f", mark {self._ballot(commit)}" if commit else ""
        return f"{self._ballot(ballot)} {self._body(body)}{cached}, next {self._ballot(following)}{mark}"

    def _digest(self, message: list[Any]) -> str:
        digest = digest_parse(message[2])
        parts = [f"accepted {self._ballot(digest.accepted_ballot)}"] if digest.accepted_ballot else []
        parts += [f"committed {self._ballot(digest.committed_ballot)}"] if digest.committed_ballot else []
        parts += [f"overlay {self._version(digest.overlay_version)}"] if digest.overlay_version else []
        return "; ".join(parts) or "nothing"

    # -- values

    def _ballot(self, ballot: bytes) -> str:
        if not ballot:
            return "-"
        stamp, node, incarnation, number = _BALLOT.unpack(ballot)
        if node == 0xFFFF_FFFF_FFFF_FFFF:
            return f"<{self._stamp(stamp)}>"
        return f"<{self._stamp(stamp)} {self._hosts.get(node, '?')}/{incarnation}#{number}>"

    @staticmethod
    def _stamp(stamp: int) -> str:
        counter = stamp & 0xFFFF
        return f"{(stamp >> 16) - WALL_EPOCH_MS}" + (f".{counter}" if counter else "")

    def _version(self, version: bytes) -> str:
        if not version:
            return "-"
        stamp, last = struct.unpack(">QQ", version[28:])
        base = self._ballot(version[:28]) if any(version[:28]) else "<>"
        return f"{base}+{last}" if not stamp else f"{base}+{self._stamp(stamp)}@{self._hosts.get(last, '?')}"

    def _body(self, body: bytes) -> str:
        if not body:
            return "nothing"
        content = body_content(body)
        value = "tombstone" if len(body) <= BODY_HEADER_BYTES else content[1:25].decode(errors="replace").rstrip(".")
        return f"{value} {self._version(body_version(body))}"


_TELL: Final[dict[int, Callable[[_Telling, list[Any]], str]]] = {
    m.PREPARE: lambda telling, message: telling._ballot(message[4]),
    m.PROMISE: _Telling._promise,
    m.ACCEPT: _Telling._accept,
    m.ACCEPTED: lambda telling, message: f"shows overlay {telling._body(message[2][1:])}" if message[2] else "",
    m.NACK: lambda telling, message: telling._ballot(message[2]),
    m.COMMIT: lambda telling, message: f"{telling._ballot(message[3])} {telling._body(message[4])}",
    m.UNKNOWN_BALLOT: lambda telling, message: telling._ballot(message[2]),
    m.READ: lambda telling, message: "of the whole state" if message[4] else "of the digest",
    m.DIGEST: _Telling._digest,
    m.ENTRY: lambda telling, message: telling._body(message[4][1:]),
    m.WRITTEN: lambda telling, message: "superseded" if message[2] else "",
    m.REFUSED: lambda telling, message: str(message[2]),
    m.FAILED: lambda telling, message: f"{message[2]}, {message[3]}",
    m.ITEM: lambda telling, message: telling._body(message[2]),
    m.CONFLICT: lambda telling, message: telling._body(message[2]),
    m.APPLIED: lambda telling, message: telling._version(message[2]),
    m.STAMPED: lambda telling, message: telling._version(message[2][1:]),
    m.MUTATE: lambda telling, message: f"attempt {message[5]}",
    m.GET: lambda telling, message: "strong" if message[3] else f"eventual r={message[4]}",
    m.WRITE: lambda telling, message: f"w={message[3]}" + (" stamped" if message[8] else ""),
}
