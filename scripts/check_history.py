#!/usr/bin/env python3
"""Judge a history of operations: does it keep what docs/protocol.md, section 3, promises?

FILE is any history in the format of docs/testing.md, section 1: one JSON object a line.  Each promise is judged key by
key; a violation is shown with the smallest part of the history that contradicts it, and `--html` draws it.

\b
Exit code:
  0  nothing is violated
  1  something is
  2  the history cannot be read, or there is nothing in it
  3  nothing is violated, but some keys could not be judged: too many unknown outcomes on one key (docs/testing.md)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # the checkers live there

from checkers import timeline
from checkers.history import HistoryError, Operation, load
from checkers.judge import judge
from checkers.keyed import NEVER_NS, returned_ns
from checkers.operation import describe
from checkers.report import Finding, Report
from checkers.search import STEPS_MAX

SHOWN_MAX = 5
"""Findings told on the terminal; the page and the JSON have all of them."""
STYLES = {"violated": "bold red", "holds": "green", "unknown": "yellow"}


@click.command(help=__doc__)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--key", "keys", multiple=True, help="Judge only this key; may be given several times.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with a timeline of each violation."
)
@click.option("--steps", default=STEPS_MAX, show_default=True, help="How far to search for an explanation of one key.")
def main(file: Path, keys: tuple[str, ...], as_json: bool, html: Path | None, steps: int) -> None:
    """Load, judge, show."""
    console = Console(stderr=as_json)
    try:
        operations = load(file)
    except OSError as error:
        console.print(f"[red]cannot read {escape(str(file))}: {escape(error.strerror or str(error))}", highlight=False)
        sys.exit(2)
    except (HistoryError, UnicodeDecodeError) as error:
        console.print(f"[red]{escape(str(error))}", highlight=False)
        sys.exit(2)
    if keys:
        missing = set(keys) - {operation.key for operation in operations}
        if missing:
            raise click.BadParameter(f"{file} has no operation on {', '.join(sorted(missing))}", param_hint="--key")
        operations = [operation for operation in operations if operation.key in keys]
    if not operations:
        console.print(f"[red]{escape(str(file))} holds no operation: there is nothing to judge", highlight=False)
        sys.exit(2)
    report = judge(operations, steps_max=steps)
    if html is not None:
        html.write_text(timeline.page(report, operations, f"The history {file.name}"), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        show(console, report, file, html)
    sys.exit(1 if report.findings else 3 if report.unknown else 0)


def show(console: Console, report: Report, file: Path, html: Path | None) -> None:
    """Print the verdicts, and the first few findings."""
    counts = ", ".join(f"{count:,} {name}" for name, count in sorted(report.counts.items(), key=lambda item: -item[1]))
    console.print(f"{file}: {report.operations:,} operations on {report.keys:,} keys: {counts}", highlight=False)
    console.print(verdicts(report))
    for finding in report.findings[:SHOWN_MAX]:
        console.print(f"\n[bold red]{finding.checker}[/] key [bold]{escape(finding.key)}[/]: {escape(finding.message)}")
        console.print(evidence(finding))
    if len(report.findings) > SHOWN_MAX:
        console.print(f"\n... and {len(report.findings) - SHOWN_MAX} more: --json or --html shows all of them")
    for checker, key in report.unknown[:SHOWN_MAX]:
        console.print(
            f"[yellow]{checker}[/] key [bold]{escape(key)}[/]: unknown: too many unknown outcomes (see --steps)"
        )
    if html is not None:
        console.print(f"\ntimelines: {html}", highlight=False)


def verdicts(report: Report) -> Table:
    """Return the table of checkers."""
    table = Table("checker", "promise", "keys", "seconds", "verdict", box=None, padding=(0, 2, 0, 0))
    for column in table.columns[2:4]:
        column.justify = "right"
    for checker in report.checkers:
        style = STYLES.get(checker.verdict, "dim")
        where = len(checker.findings) or len(checker.unknown)
        verdict = checker.verdict + (f" on {where:,} key{'s' * (where > 1)}" if where else "")
        table.add_row(
            checker.name, checker.promise, f"{checker.keys:,}", f"{checker.elapsed_s:.2f}", f"[{style}]{verdict}"
        )
    return table


def evidence(finding: Finding) -> Table:
    """Return the table of the operations that show it, with times from the first call."""
    table = Table("#", "process", "node", "call ms", "answer ms", "operation", box=None, padding=(0, 2, 0, 0))
    for column in (table.columns[0], *table.columns[3:5]):
        column.justify = "right"
    begin_ns = min(operation.call_ns for operation in finding.evidence)
    for operation in finding.evidence:
        table.add_row(*_row(operation, begin_ns))
    return table


def _row(operation: Operation, begin_ns: int) -> tuple[str, ...]:
    end_ns = returned_ns(operation)
    answer = "never" if end_ns == NEVER_NS else f"{(end_ns - begin_ns) / 1e6:.3f}"
    call = f"{(operation.call_ns - begin_ns) / 1e6:.3f}"
    return str(operation.index), str(operation.process), operation.node, call, answer, escape(describe(operation))


if __name__ == "__main__":
    main()
