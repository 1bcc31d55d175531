"""How results look: tables and colour on a terminal, plain aligned text when piped, one JSON document for machines.

Decides: every layout and wording of results.  Leaves to others: the facts themselves.  Results go to stdout; progress
and errors go to stderr, so that a pipe carries results only.  `rich` is imported only where a terminal looks on.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, Any

Row = Sequence[object]
Rows = Sequence[Row]
STYLES = {
    "serving": "green",
    "yes": "green",
    "starting": "yellow",
    "joining": "yellow",
    "draining": "yellow",
    "stopping": "yellow",
    "paused": "yellow",
    "down": "bold red",
    "unreachable": "bold red",
    "other cluster": "bold red",
    "no": "bold red",
}
_NUMERIC = re.compile(r"-|[+-]?[0-9][0-9.,]*( [A-Za-z]{1,3})?")
_UNDECIDED_NOTED = 1000
"""Fewer are normal under load: a mark takes a moment."""
_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def is_terminal(stream: IO[str] | None) -> bool:
    """Return whether a person looks at this stream; nobody does if it was closed before the start (None)."""
    return stream is not None and stream.isatty()


def as_json(facts: Any) -> str:
    """Return facts as one line of JSON."""
    return json.dumps(facts, ensure_ascii=False, separators=(",", ":"))


def table(headers: Sequence[str], rows: Rows, *, title: str = "", turns: bool = False) -> str:
    """Return a table in the form that stdout deserves: boxes and colour on a terminal, aligned columns when piped.

    `turns`: where the terminal is too narrow, rows become columns.
    """
    if not is_terminal(sys.stdout):
        return plain_table(headers, rows, title=title)
    return _rich_table(headers, rows, title, turns)


def plain_table(headers: Sequence[str], rows: Rows, *, title: str = "") -> str:
    """Return a table as aligned columns, two spaces apart; columns of numbers are aligned right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in (list(headers), *cells)) for i in range(len(headers))]
    right = [_is_numeric(cells, i) for i in range(len(headers))]
    lines = [title] if title else []
    for line in (list(headers), *cells):
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True))
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _is_numeric(cells: Sequence[Sequence[str]], column: int) -> bool:
    return bool(cells) and all(_NUMERIC.fullmatch(row[column]) for row in cells)


def _rich_table(headers: Sequence[str], rows: Rows, title: str, turns: bool) -> str:
    from rich.console import Console

    console = Console(file=sys.stdout)
    made = rich_table(headers, rows, title)
    if turns and rows and console.measure(made, options=console.options.update(width=1000)).minimum > console.width:
        turned = list(zip(headers, *rows, strict=True))
        made = rich_table([str(cell) for cell in turned[0]], turned[1:], title)
    with console.capture() as capture:
        console.print(made)
    return capture.get().rstrip("\n")


def rich_table(headers: Sequence[str], rows: Rows, title: str = "") -> Any:
    """Return a `rich` table; states are coloured."""
    from rich.box import ROUNDED
    from rich.table import Table
    from rich.text import Text

    cells = [[str(cell) for cell in row] for row in rows]
    made = Table(title=title or None, box=ROUNDED, header_style="bold", title_justify="left")
    for i, header in enumerate(headers):
        made.add_column(header, justify="right" if _is_numeric(cells, i) else "left", overflow="fold")
    for row in cells:
        made.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return made


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: 1 line, 2 lines."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size(count: float) -> str:
    """Return a number of bytes for people, with a binary unit."""
    for unit, name in _UNITS:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Return a time span for people: 3 s, 4 min, 5.1 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


STATUS_HEADERS = (
    *("node", "state", "pid", "address", "epoch", "~keys", "bytes", "clock", "hints"),
    *("repairs", "compared", "budget", "late ms", "ops/s", "p50 ms", "p99 ms", "peers", "up"),
)


def status_rows(nodes: Sequence[Mapping[str, Any]]) -> list[list[object]]:
    """Return one row per node, in the order of STATUS_HEADERS; a node that does not answer has only its state."""
    return [_status_row(node) for node in nodes]


def _status_row(node: Mapping[str, Any]) -> list[object]:
    known = [node["node"], node["state"], node.get("pid") or "-", node["address"]]
    if "epoch" not in node:
        return [*known, *("-" for _ in STATUS_HEADERS[4:])]
    latency, peers = node.get("latency_ms") or {}, node.get("peers") or {}
    up = sum(1 for state in peers.values() if state == "up")
    return [
        *known,
        node["epoch"],
        node.get("keys", 0),
        size(node.get("bytes", 0)),
        f"{node.get('clock_offset_ms', 0):+.1f} ms",
        node.get("hints", 0),
        node.get("repairs", 0),
        (node.get("anti_entropy") or {}).get("comparisons", 0),
        f"{(node.get('repair_budget') or {}).get('used', 0):.0%}",
        f"{(node.get('load') or {}).get('loop_ms', 0):.1f}",
        f"{node.get('ops_per_s', 0):.0f}",
        *(f"{latency[name]:.2f}" if latency.get(name) else "-" for name in ("p50", "p99")),
        f"{up}/{len(peers)}",
        duration(node.get("uptime_s", 0)),
    ]


def status_notes(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line for each thing that a node cannot finish now: deletes that wait for a replica (R35), a
    ring of another epoch; and for nodes that are far busier than the rest."""
    notes = []
    for node in nodes:
        deleted, proposals = node.get("tombstones") or {}, node.get("proposals") or {}
        for other, count in sorted((deleted.get("waits_for") or {}).items()):
            notes.append(f"{node['node']}: {counted(count, 'deleted key')} to be purged once {other} takes part")
        if proposals.get("undecided", 0) > _UNDECIDED_NOTED:
            undecided = counted(proposals["undecided"], "proposal")
            notes.append(f"{node['node']}: {undecided} not known to be chosen yet; rounds settle them")
        notes += _link_notes(node)
    return notes


def _link_notes(node: Mapping[str, Any]) -> list[str]:
    notes = []
    for other, link in (node.get("links") or {}).items():
        if link["epoch"] not in (None, node.get("epoch")):
            notes.append(f"{node['node']}: {other} goes by epoch {link['epoch']} of the ring, not {node.get('epoch')}")
        if link["busy"]:
            load = link["load"]
            notes.append(
                f"{node['node']}: reads avoid {other}, whose loop is {load['loop_ms']:.1f} ms late"
                f" ({counted(load['in_flight'], 'request')} in flight)"
            )
    return notes


def owed_lines(node: Mapping[str, Any]) -> list[str]:
    """Return what a node owes to others, what of that it has dropped, and whom it hears nothing of; often nothing."""
    owed, dropped = node.get("hints_owed") or {}, node.get("hints_dropped") or {}
    silent = [name for name, state in (node.get("peers") or {}).items() if state == "silent"]
    lines = []
    if owed:
        lines.append(f"{node['node']} owes hints: {', '.join(f'{name} {count:,}' for name, count in owed.items())}")
    if any(dropped.values()):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count)
        lines.append(
            f"{node['node']} has dropped hints since its start: {reasons}; anti-entropy finds what they stood for"
        )
    if silent:
        lines.append(f"{node['node']} hears nothing of {', '.join(silent)}, which is connected")
    return lines


EXPLAIN_HEADERS = ("replica", "what", "ballot", "version", "value")


def explanation(facts: Mapping[str, Any]) -> str:
    """Return what EXPLAIN said about a key: its place, each replica's state, and what a strong read would do."""
    replicas = facts["replicas"]
    silent = sum(1 for replica in replicas if "error" in replica)
    which = f"{silent} of {counted(len(replicas), 'replica')} did not answer; the others" if silent else "the replicas"
    agree = f"{which} {'differ' if facts['differ'] else 'agree'}"
    return "\n".join(
        (
            f"key {as_json(facts['key'])} of store {facts['store']!r}: partition {facts['partition']},"
            f" replicas {', '.join(facts['preference'])} (the first is its primary)",
            table(EXPLAIN_HEADERS, [row for replica in replicas for row in _replica_rows(replica)]),
            f"{agree}; a strong read: {facts['strong_read']}",
        )
    )


def _replica_rows(replica: Mapping[str, Any]) -> list[list[object]]:
    name = replica["node"]
    if "error" in replica:
        return [[name, "unreachable", replica["error"], "-", "-"]]
    rows: list[list[object]] = [[name, "promised", replica.get("promised") or "-", "-", "-"]]
    for what in ("accepted", "committed", "overlay"):
        state = replica.get(what)
        if state:
            rows.append([name, what, *(state.get(field, "-") for field in ("ballot", "version")), _value_of(state)])
    return rows


def _value_of(state: Mapping[str, Any]) -> str:
    if "expires_ms" not in state:
        return str(state["value"])
    return f"{state['value']} until {datetime.fromtimestamp(state['expires_ms'] / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


Advance = Callable[[int, str], None]
"""Say how much is done now, and a few words about it."""


@contextmanager
def progress(title: str, total: int | None, done: int = 0) -> Iterator[Advance]:
    """Show a progress bar on stderr while the block runs, if stderr is a terminal; else nothing.

    Without a total the words stand right after the count: `768` `of 768 ranges`.
    """
    if not is_terminal(sys.stderr):
        yield lambda done, words: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    known = (MofNCompleteColumn(), TimeRemainingColumn())
    counts = known if total is not None else (TextColumn("{task.completed:,}"),)
    columns = (TextColumn("{task.description}"), BarColumn(), *counts, TextColumn("{task.fields[words]}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=done, words="")
        yield lambda done, words: bar.update(task, completed=done, words=words)
