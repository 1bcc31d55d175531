#!/usr/bin/env python3
"""Real processes under every fault: does the cluster keep its promises, and what do its clients notice?

Starts `kvnode up` with a proxy between every two nodes, and clients that never stop.  Nemeses run one after the other,
first alone, then in pairs (`--list` names them); then everything is mended, all replicas must come to hold the same
without any read, every key is read from every node, and the history of all operations is judged.  Exit code 1 on any
violation, and if too many keys could not be judged.

\b
  scripts/chaos.py                                          one minute, drawn from the seed
  scripts/chaos.py --seconds 600 --report chaos.html        every fault, alone and in pairs
  scripts/chaos.py --faults pause,partition+kill-one        these only, two of them together
  scripts/chaos.py --perseus                                availability while one of three nodes is cut off
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import click

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # the checkers live there

from checkers.history import Recorder
from checkers.operation import describe

from kvnode.cli import show
from scripts.havoc import agreement, cluster, disks, measure, perseus, report, run, schedule, verdict
from scripts.havoc.catalogue import NEMESES

HEADERS = ("fault", "ok", "failed", "unknown", "p50 ms", "p99 ms", "longest gap s", "without strong s")
HEALING_HEADERS = (
    "replicas that nobody reads", "keys", "agree after", "hints", "comparisons", "reads", "settled", "purged",
)  # fmt: skip

EVIDENCE_MAX = 10
"""Operations shown of each violation; the report has all of them."""


@click.command(help=__doc__)
@click.option("--faults", default="", help="Faults, separated by commas; a+b: both together.  Default: all.")
@click.option("--seconds", type=click.FloatRange(15), default=60.0, show_default=True, help="How long, in all.")
@click.option("--seed", type=int, default=None, help="Which faults, victims and operations.  Default: a new one.")
@click.option("--nodes", type=click.IntRange(3, 7), default=3, show_default=True, help="Nodes of the cluster.")
@click.option("--clients", type=click.IntRange(2, 64), default=24, show_default=True, help="Clients that never stop.")
@click.option(
    "--heal-within",
    type=click.FloatRange(1),
    default=agreement.HEAL_S,
    show_default=True,
    help="Seconds in which all replicas must come to agree by themselves.",
)
@click.option("--history", type=click.Path(path_type=Path), help="Write every operation to this file (JSON Lines).")
@click.option("--report", "page", type=click.Path(path_type=Path), help="Write a report to this HTML file.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep data and logs in this directory.")
@click.option("--perseus", "is_perseus", is_flag=True, help="Measure availability as Perseus did, and nothing else.")
@click.option("--list", "is_list", is_flag=True, help="List the faults and what must hold under each.")
def main(
    faults: str,
    seconds: float,
    seed: int | None,
    nodes: int,
    clients: int,
    heal_within: float,
    history: Path | None,
    page: Path | None,
    keep: Path | None,
    is_perseus: bool,
    is_list: bool,
) -> None:
    """Run what the command line asks for."""
    if is_list:
        print(show.table(("fault", "what", "promise"), [(n.name, n.what, n.promise) for n in NEMESES.values()]))
        return
    names = tuple(fault.strip() for fault in faults.split(",") if fault.strip())
    try:
        plan = schedule.make(seconds, time.time_ns() % 1_000_000 if seed is None else seed, names)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--faults") from error
    if not disks.is_in_namespace():
        disks.enter_namespace()
    with tempfile.TemporaryDirectory(prefix="kvnode-chaos-") as scratch:
        directory = keep or Path(scratch)
        if is_perseus:
            sys.exit(0 if perseus.main(directory, seconds) else 1)
        course = _run(plan, directory, nodes, clients, heal_within, history)
    judged = verdict.of(course)
    if page is not None:
        page.write_text(report.page(course, judged), encoding="utf-8")
    _tell(course, judged, page)
    sys.exit(0 if judged.is_ok else 1)


def _run(
    plan: schedule.Plan, directory: Path, nodes: int, clients: int, heal_s: float, history: Path | None
) -> run.Course:
    say = _timed()
    out: TextIO | None = history.open("w", encoding="utf-8") if history else None
    with cluster.running(directory, nodes, small_disk=disks.is_in_namespace()) as hurt:
        disk = "tmpfs in a user namespace" if hurt.small_disk else "injected"
        course = run.Course(plan, nodes, disk, heal_s=heal_s)
        say(f"seed {plan.seed}: {nodes} nodes, {len(plan.windows)} windows, about {plan.seconds:.0f} s")
        asyncio.run(run.run(hurt, course, Recorder(time.monotonic_ns, out), clients, say))
    if out is not None:
        out.close()
    return course


def _timed() -> Callable[[str], None]:
    began_s = time.monotonic()
    return lambda words: print(f"{time.monotonic() - began_s:6.1f} s  {words}", flush=True)


def _tell(course: run.Course, judged: verdict.Verdict, page: Path | None) -> None:
    """Print what was seen and the verdict."""
    rows = [_row(w.name, measure.summary(course.operations, w.begin_ns, w.end_ns)) for w in course.windows]
    moments_ns = course.begin_ns, course.hold_ns, course.rest_ns, course.end_ns
    rows.append(_row("all of it", measure.whole(course.operations, *moments_ns)))
    print(show.table(HEADERS, rows))
    print(show.table(HEALING_HEADERS, _healing(course)))
    print(show.table(("checker", "verdict", "judged"), [(j.name, j.verdict, j.judged) for j in judged.judgements]))
    for judgement in judged.judgements:
        for violation in judgement.violations:
            print(f"VIOLATION {judgement.name}: {violation.key}: {violation.words}")
            for operation in violation.finding.evidence[:EVIDENCE_MAX] if violation.finding else ():
                asked_s = (operation.call_ns - course.begin_ns) / 1e9
                print(f"  at {asked_s:.3f} s  process {operation.process} {operation.node}: {describe(operation)}")
    print(f"the full disk was {course.disk}")
    if page is not None:
        print(f"the report is in {page}")
    print(f"seed {course.plan.seed}: {judged}")


def _healing(course: run.Course) -> list[tuple[object, ...]]:
    """Return how soon replicas agreed without a read, and what healed them."""
    rows = [(window.name, window.healed, window.repairs) for window in course.windows]
    rows += [(moment, healed, course.repairs) for moment, healed in course.healed.items()]
    return [(name, healed.keys, healed.after, *counts) for name, healed, counts in rows if healed is not None]


def _row(name: str, seen: measure.Summary) -> tuple[object, ...]:
    p50, p99 = (f"{ms:.1f}" if ms is not None else "-" for ms in (seen.p50_ms, seen.p99_ms))
    return name, seen.ok, seen.failed, seen.unknown, p50, p99, f"{seen.gap_s:.1f}", f"{seen.strong_gap_s:.1f}"


if __name__ == "__main__":
    main()
