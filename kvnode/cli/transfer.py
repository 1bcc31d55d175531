"""`kvnode import`: whole files in.

Decides: the order and number of writes in flight, what stops an import, and what is reported.
Leaves to others: operation ids and progress (`journal`), the text of a line (`lines`), each write (`kvclient`).

Lines are read, and get their ids, in the order of the file; `concurrency` of them are in flight.  Two lines with a key
never are: the later waits, so that it also wins.  A write that fails for a reason that may pass (a node died) is tried
again, with the same id, for as long as `timeout` says; a definite "too few replicas" is believed after BELIEVED_S.
Then it counts as refused or unknown, and the import stops, or with `keep_going` goes on; the journal stays where that
line is, so that the next run tries it again.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import xxhash

import kvclient
from kvclient import Consistency, Kv, OperationId, Store
from kvclient.client import CONNECT_TIMEOUT_S
from kvclient.errors import InvalidRequest, KvError, NotConnected, OutcomeUnknown, QuorumUnreachable
from kvnode.cli import journal, lines, probe, show, wording
from kvnode.cli.journal import Journal, Source, Ticket
from kvnode.cli.target import Target

TIMEOUT_S = 30.0
"""How long one line is tried: longer than the restart of a node takes."""
PAUSE_S = 0.2
BELIEVED_S = 3.0
"""How long a definite "too few replicas" is tried again: links come back within it, and what lasts longer is believed,
because the next run can go on from there."""
LINE_BYTES_MAX = 512 << 20
"""A value of 64 MiB (the most that a cluster can allow) with every byte escaped, and its key."""
PROBLEMS_SHOWN_MAX = 20
DONE, USAGE, REFUSED, UNKNOWN = 0, 2, 4, 5
STDIN = "-"


class ImportJob(NamedTuple):
    """What the options of `kvnode import` say."""

    file: str
    store: str
    timeout: float
    consistency: Consistency
    concurrency: int
    keep_going: bool
    progress: Path | None
    again: bool


@dataclass(slots=True)
class Report:
    """What became of an import, line by line: each is counted once."""

    store: str
    lines: int = 0
    """Lines that were looked at in this run."""
    written: int = 0
    before: int = 0
    """Lines that an earlier run had done."""
    unchanged: int = 0
    """Lines in doubt whose value stood there already."""
    bad: int = 0
    refused: int = 0
    unknown: int = 0
    seconds: float = 0.0
    is_complete: bool = False
    mend: str = ""
    """What to do if it is not complete."""
    problems: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """The worst of what happened: unknown, then refused, then bad lines."""
        if self.unknown:
            return UNKNOWN
        return REFUSED if self.refused else USAGE if self.bad else DONE

    def facts(self) -> dict[str, Any]:
        """Return the counts for machines."""
        names = ("store", "written", "before", "unchanged", "bad", "refused", "unknown")
        counts = {name: getattr(self, name) for name in names}
        return {**counts, "seconds": round(self.seconds, 3), "complete": self.is_complete, "problems": self.problems}

    def sentence(self) -> str:
        """Return the counts for people."""
        rate = f" ({self.written / self.seconds:,.0f}/s)" if self.seconds > 0.1 and self.written else ""
        text = f"{show.counted(self.written, 'line')} written to store {self.store!r} in {self.seconds:.1f} s{rate}"
        counts = (
            (self.before, "was imported before", "were imported before"),
            (self.unchanged, "stood there already", "stood there already"),
            (self.bad, "is bad", "are bad"),
            (self.refused, "was refused (not applied)", "were refused (not applied)"),
            (self.unknown, "has an unknown outcome", "have an unknown outcome"),
        )
        text += "".join(f"; {count:,} {one if count == 1 else more}" for count, one, more in counts if count)
        if not self.is_complete:
            text += f"; not complete: {self.mend}"
        return text


def run_import(job: ImportJob, target: Target) -> Report:
    """Import a file and return what became of it.  Raises InvalidRequest, ConfigError or NotConnected at the start."""
    with _opened(job.file) as file:
        return asyncio.run(_import(job, target, file))


@contextmanager
def _opened(name: str) -> Iterator[IO[bytes]]:
    if name == STDIN:
        yield sys.stdin.buffer
        return
    try:
        with Path(name).open("rb") as file:
            yield file
    except OSError as error:
        raise InvalidRequest(f"cannot read {name}: {error.strerror or error}") from error


async def _import(job: ImportJob, target: Target, file: IO[bytes]) -> Report:
    kept = await _journal(job, target, file)
    if kept.finished and not job.again:
        report = Report(job.store, before=kept.done - kept.bad, bad=kept.bad, is_complete=True)
        report.problems.append(f"{job.file} was imported already; --again writes every line once more")
        _say(report.problems[0])
        return report
    where, connect_s = target.address_texts, min(job.timeout, CONNECT_TIMEOUT_S)
    async with kvclient.connect(where, cluster=target.cluster, timeout=job.timeout, connect_timeout=connect_s) as kv:
        if kept.reached:
            kept.resume(IdIssuer(kv))
        if kept.done:
            _say(f"going on after line {kept.done:,}, where the import of {job.file} was interrupted")
        importer = Importer(job, kv, kept, file)
        return await importer.run()


async def _journal(job: ImportJob, target: Target, file: IO[bytes]) -> Journal:
    """Return the journal of this file's import: the one that an interrupted run left, or a new one."""
    if job.file == STDIN and job.progress is not None:
        raise InvalidRequest("--progress needs a FILE: what comes from stdin cannot be read again")
    if job.file == STDIN or not file.seekable():
        return Journal(None, Source("", 0, job.store, job.consistency, {}))
    digest, count = await asyncio.to_thread(_digest, file)
    source = Source(digest, count, job.store, job.consistency, await _identities(target, job.timeout))
    path = job.progress or Path(job.file + ".kvnode-import")
    old = None if job.again else journal.load(path)
    if old is not None and old.source.is_same(source):
        return old
    if old is not None:
        old.release()
        if not old.finished:
            _say(f"{path} belongs to another import (file, store or cluster changed): starting from the first line")
    return Journal(path, source)


def _digest(file: IO[bytes]) -> tuple[str, int]:
    """Return a digest of the whole file and its number of lines."""
    digest, count, last = xxhash.xxh3_128(), 0, b"\n"
    while chunk := file.read(1 << 20):
        digest.update(chunk)
        count += chunk.count(b"\n")
        last = chunk[-1:]
    file.seek(0)
    return digest.hexdigest(), count + (last != b"\n")


async def _identities(target: Target, timeout_s: float) -> dict[str, int]:
    async def one(host: str, port: int) -> tuple[str, int] | None:
        try:
            facts = await probe.welcome(host, port, target.cluster, min(timeout_s, probe.TIMEOUT_S))
        except probe.ProbeError:
            return None
        return facts["name"], facts["node_id"]

    answers = await asyncio.gather(*(one(host, port) for host, port in target.addresses))
    return dict(answer for answer in answers if answer is not None)


class IdIssuer:
    """Makes operation ids in the server's time, even while no node is connected."""

    def __init__(self, kv: Kv) -> None:
        self._kv = kv
        self._offset_ms = 0
        self.new_operation_id(timeout=1)

    def new_operation_id(self, *, timeout: float) -> OperationId:
        """Return a new id, issued now, with its deadline `timeout` seconds away."""
        now_ms = time.monotonic_ns() // 1_000_000
        try:
            made = self._kv.new_operation_id(timeout=timeout)
        except NotConnected:
            if not self._offset_ms:
                raise
            issued_at_ms = now_ms + self._offset_ms
            return OperationId(os.urandom(8), 1, issued_at_ms, issued_at_ms + round(timeout * 1000))
        self._offset_ms = made.issued_at_ms - now_ms
        return made


class Importer:
    """One run of an import: `run` it once."""

    def __init__(self, job: ImportJob, kv: Kv, kept: Journal, file: IO[bytes]) -> None:
        self._job = job
        self._issuer = IdIssuer(kv)
        self._store: Store = kv.store(job.store, consistency=job.consistency)
        self._journal = kept
        self._is_strong = job.consistency == "strong"
        self._lines = enumerate(iter(lambda: file.readline(LINE_BYTES_MAX + 1), b""), 1)
        self._finished: set[int] = set()
        self._failed_at = 0
        self._bad_at = 0
        self._sent_up_to = 0
        self._last_of_key: dict[str, asyncio.Event] = {}
        self._is_stopping = False
        self._has_ended = False
        self.report = Report(job.store, before=kept.done - kept.bad, bad=kept.bad)

    async def run(self) -> Report:
        """Write every line that is not done; return what became of them."""
        started = time.monotonic()
        total = self._journal.source.lines or None
        try:
            with show.progress(f"import {Path(self._job.file).name}", total, self._journal.done) as self._advance:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._job.concurrency):
                        group.create_task(self._work())
            self._note_end()
        except asyncio.CancelledError:
            if self._journal.path is not None:
                _say(f"stopped after line {self._journal.done:,}; run the same command again to go on")
            raise
        finally:
            self.report.seconds = time.monotonic() - started
            if not self._has_ended and self._journal.reached:
                self._journal.save()
        return self.report

    def _note_end(self) -> None:
        self._has_ended = True
        is_read = self._is_stopping or next(self._lines, None) is not None
        self.report.is_complete = self._journal.finished = not (is_read or self._failed_at)
        self._journal.end(self._sent_up_to)
        if self._bad_at and self._bad_at == self._failed_at:
            self.report.mend = f"mend line {self._bad_at:,}, or use --keep-going"
        elif self._journal.path is None:
            self.report.mend = "give all lines again, which writes those that stand there once more"
        else:
            self.report.mend = "run the same command again to go on"

    async def _work(self) -> None:
        while not self._is_stopping and (found := self._next()) is not None:
            number, raw = found
            try:
                line = self._parse(raw)
                if line is not None:
                    await self._in_turn(number, line)
            except KvError as error:
                self._fail(number, error)
            else:
                self._settle(number)

    def _next(self) -> tuple[int, bytes] | None:
        return next((found for found in self._lines if found[0] > self._journal.done), None)

    def _parse(self, raw: bytes) -> lines.Line | None:
        if len(raw) > LINE_BYTES_MAX:
            self._is_stopping = True  # where its end is, nobody knows
            raise InvalidRequest(f"it is longer than {LINE_BYTES_MAX} bytes")
        return lines.parse(raw)

    async def _in_turn(self, number: int, line: lines.Line) -> None:
        """Write a line once the one before it with the same key is through."""
        ticket = self._journal.ticket(number, self._issuer) if self._is_strong else None
        before, mine = self._last_of_key.get(line.key), asyncio.Event()
        self._last_of_key[line.key] = mine
        try:
            if before is not None:
                await before.wait()
            await self._write(line, ticket)
            self._sent_up_to = max(self._sent_up_to, number)
        except KvError as error:
            if error.outcome != "not applied":
                self._sent_up_to = max(self._sent_up_to, number)
            raise
        finally:
            mine.set()
            if self._last_of_key[line.key] is mine:
                del self._last_of_key[line.key]

    async def _write(self, line: lines.Line, ticket: Ticket | None) -> None:
        if ticket is not None and ticket.in_doubt and await self._stands_there(line):
            self.report.unchanged += 1
            return
        operation_id = ticket.operation_id if ticket is not None else None
        await self._persist(
            lambda left_s: self._store.put(line.key, line.value, operation_id=operation_id, timeout=left_s)
        )
        self.report.written += 1

    async def _stands_there(self, line: lines.Line) -> bool:
        item = await self._persist(lambda left_s: self._store.get(line.key, consistency="strong", timeout=left_s))
        return item is not None and type(item.value) is type(line.value) and item.value == line.value

    async def _persist(self, operation: Callable[[float], Awaitable[Any]]) -> Any:
        """Try until it is done or the time is up.  Raises OutcomeUnknown if any try may have taken effect."""
        began = time.monotonic()
        give_up = began + self._job.timeout
        unknown: KvError | None = None
        while True:
            try:
                return await operation(max(PAUSE_S, give_up - time.monotonic()))
            except KvError as error:
                unknown = error if error.outcome == "unknown" else unknown
                if unknown is None and isinstance(error, QuorumUnreachable):
                    give_up = min(give_up, began + BELIEVED_S)
                if not error.retryable or time.monotonic() + PAUSE_S >= give_up:
                    raise (unknown or error) from None
            await asyncio.sleep(PAUSE_S)

    # -- what became of a line

    def _settle(self, number: int) -> None:
        """Count a line as done, and move the journal's mark over all that are done without a gap."""
        kept = self._journal
        if not self._failed_at or number < self._failed_at:
            self._finished.add(number)
            while kept.done + 1 in self._finished:
                kept.done += 1
                self._finished.remove(kept.done)
        self._advance(kept.done if self._failed_at == 0 else number, self._words())

    def _fail(self, number: int, error: KvError) -> None:
        if isinstance(error, InvalidRequest) and not isinstance(error, OutcomeUnknown):
            self.report.bad += 1
            self._bad_at = min(self._bad_at or number, number)
            if self._job.keep_going:
                self._journal.bad += 1
                self._settle(number)
        elif error.outcome == "unknown":
            self.report.unknown += 1
        else:
            self.report.refused += 1
        if not isinstance(error, InvalidRequest) or not self._job.keep_going:
            self._failed_at = min(self._failed_at or number, number)
        self._is_stopping = self._is_stopping or not self._job.keep_going
        self._tell(f"line {number}: {self._sentence(error)}")

    def _sentence(self, error: KvError) -> str:
        if not isinstance(error, OutcomeUnknown) or self._journal.path is None or not self._is_strong:
            return wording.sentence_of(error)
        if not error.retryable:
            return f"it may or may not have been written, and no node can tell any more ({error.__cause__ or error})"
        return f"it may or may not take effect ({error.__cause__ or error}): run the same command again to find out"

    def _tell(self, problem: str) -> None:
        problems = self.report.problems
        if len(problems) < PROBLEMS_SHOWN_MAX:
            problems.append(problem)
            _say(problem)
        elif len(problems) == PROBLEMS_SHOWN_MAX:
            problems.append("and more")
            _say(problems[-1])

    def _words(self) -> str:
        report = self.report
        trouble = report.bad + report.refused + report.unknown
        return f"{show.counted(trouble, 'line')} in trouble" if trouble else ""


def _say(sentence: str) -> None:
    print(f"kvnode: {sentence}", file=sys.stderr)
