#!/usr/bin/env python3
"""Run whole clusters on virtual time, one per seed, with every fault of the model, and judge them (docs/testing.md).

\b
    scripts/simulate.py --seeds 1000                 a thousand runs, on all cores but one
    scripts/simulate.py --seeds 5000:6000 --jobs 1   these, in order, in one process
    scripts/simulate.py --seconds 600                as many as that takes
    scripts/simulate.py --seed 17                    one again: what it was, and how it ended
    scripts/simulate.py --seed 17 --shrink           the smallest scenario that still fails in the same way
    scripts/simulate.py --seed 17 --explain auto     the timeline of the key that is wrong (or name one)
    scripts/simulate.py --scenario FILE              a scenario that was written down, such as a shrunk one
    scripts/simulate.py --mutant NAME                with a planted mistake, which must be found; `--mutant list`

\b
Exit status: 0 if everything held (with --mutant: if the mistake was found), 1 if not.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # the simulator lives there

from mutants.registry import BY_NAME, MUTANTS
from simulation.campaign import Outcome, bias_of, campaign, planted, run_planted
from simulation.explain import Line, explain, key_of
from simulation.run import Verdict
from simulation.scenario import Scenario
from simulation.shrink import shrink
from simulation.swarm import draw

SEEDS_MAX = 10_000_000
FAILURES_SHOWN = 10
STYLES = {"fault": "yellow", "client": "bold cyan", "message": "", "disk": "green", "verdict": "bold red"}

console = Console(highlight=False)


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", default="200", show_default=True, metavar="N|A:B", help="How many seeds, or from A up to B.")
@click.option("--seconds", type=float, help="Run seeds for so long instead.")
@click.option(
    "--jobs", type=click.IntRange(1), default=max(1, (os.cpu_count() or 2) - 1), show_default=True, help="Processes."
)
@click.option("--seed", type=int, help="Run one seed again.")
@click.option("--scenario", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Run a file.")
@click.option("--shrink", "is_shrunk", is_flag=True, help="Make a failing scenario small; writes it to --out.")
@click.option("--explain", "key", metavar="KEY|auto", help="Show the timeline of one key.")
@click.option("--mutant", default="", metavar="NAME|list", help="Plant a mistake.")
@click.option("--out", type=click.Path(path_type=Path), help="Where to write a scenario (default: by its seed).")
@click.option("--json", "is_json", is_flag=True, help="Print results as JSON lines.")
def main(
    seeds: str,
    seconds: float | None,
    jobs: int,
    seed: int | None,
    scenario: Path | None,
    is_shrunk: bool,
    key: str | None,
    mutant: str,
    out: Path | None,
    is_json: bool,
) -> None:
    """Run seeds, or one scenario."""
    if mutant == "list":
        list_mutants()
        return
    if mutant and mutant not in BY_NAME:
        raise click.BadParameter(f"there is no mutant {mutant!r}; --mutant list shows all", param_hint="--mutant")
    if seed is not None or scenario is not None:
        chosen = draw(seed or 0, bias_of(mutant)) if scenario is None else scenario_of(scenario)
        source = f"--seed {seed}" if scenario is None else f"--scenario {scenario}"
        sys.exit(run_one(chosen, source, mutant, out, key=key, is_shrunk=is_shrunk, is_json=is_json))
    if mutant and seconds is None and seeds == "200":
        seeds = str(BY_NAME[mutant].seeds)
    run = Run(range_of(seeds, endless=seconds is not None), jobs, mutant, seconds, is_json=is_json)
    sys.exit(run.go())


def scenario_of(path: Path) -> Scenario:
    """Return the scenario that was written to a file."""
    try:
        return Scenario.from_json(path.read_text("utf-8"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise click.BadParameter(
            f"{path} holds no scenario ({why}); --shrink writes one", param_hint="--scenario"
        ) from error


def range_of(text: str, *, endless: bool) -> range:
    """Return the seeds that `N` or `A:B` means."""
    first, colon, end = text.partition(":")
    try:
        start, stop = (int(first), int(end)) if colon else (0, int(first))
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a number nor A:B", param_hint="--seeds") from None
    if not endless and start >= stop:
        raise click.BadParameter(f"{text!r} is no seed at all, which would prove nothing", param_hint="--seeds")
    return range(start, start + SEEDS_MAX) if endless else range(start, stop)


def list_mutants() -> None:
    """Show every planted mistake."""
    table = Table("mutant", "rule", "what would be seen", "seeds", box=None, header_style="bold")
    for mutant in MUTANTS:
        table.add_row(mutant.name, mutant.rule, mutant.breaks, str(mutant.seeds))
    console.print(table)


# -- many seeds


class Run:
    """A campaign, and what it found."""

    def __init__(self, seeds: range, jobs: int, mutant: str, seconds: float | None, *, is_json: bool) -> None:
        self.seeds, self.jobs, self.mutant, self.seconds, self.is_json = seeds, jobs, mutant, seconds, is_json
        self.failures: list[Outcome] = []
        self.totals: Counter[str] = Counter()
        self.slowest: Outcome | None = None

    def go(self) -> int:
        """Run it and return the exit status."""
        started_s = time.monotonic()
        total = None if self.seconds is not None else len(self.seeds)
        columns = (
            TextColumn("{task.completed} seeds"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
        )
        bar = Progress(*columns, console=console, transient=True, disable=self.is_json or not console.is_terminal)
        with bar:
            task = bar.add_task("", total=total, text="")
            for outcome in campaign(self.seeds, self.jobs, self.mutant):
                self.take(outcome)
                elapsed_s = time.monotonic() - started_s
                rate = self.totals["seeds"] / elapsed_s
                bar.update(task, advance=1, text=f"{rate:.0f} a second, {len(self.failures)} failed")
                if (self.mutant and self.failures) or (self.seconds is not None and elapsed_s >= self.seconds):
                    break
        return self.conclude(time.monotonic() - started_s)

    def take(self, outcome: Outcome) -> None:
        """Count one run, and tell of a failure at once."""
        self.totals["seeds"] += 1
        self.totals["operations"] += outcome.operations
        self.totals["steps"] += outcome.steps
        self.totals["purged"] += outcome.purged
        self.totals["unjudged"] += outcome.unjudged
        if self.slowest is None or outcome.elapsed_s > self.slowest.elapsed_s:
            self.slowest = outcome
        if self.is_json:
            click.echo(json.dumps(asdict(outcome)))
        if outcome.problem is not None:
            self.failures.append(outcome)
            if not self.is_json and len(self.failures) <= FAILURES_SHOWN:
                console.print(f"[bold red]seed {outcome.seed}[/]  {escape(outcome.problem.text)[:600]}")
                console.print(f"  replay: {replay(f'--seed {outcome.seed}', self.mutant)}\n", soft_wrap=True)

    def conclude(self, elapsed_s: float) -> int:
        """Show the sums and return the exit status."""
        if not self.is_json:
            seeds, rate = self.totals["seeds"], self.totals["seeds"] / elapsed_s
            console.print(
                f"{seeds} seeds in {elapsed_s:.1f} s ({rate:.1f} a second, {rate / self.jobs:.1f} per process): "
                f"{self.totals['operations']} operations, {self.totals['steps']} steps, "
                f"{self.totals['purged']} tombstones purged, "
                f"{self.totals['unjudged']} keys too hard to judge",
                soft_wrap=True,
            )
            for check, count in Counter(each.problem.check for each in self.failures if each.problem).most_common():
                console.print(f"  [red]{count:5d}[/]  {escape(check)}")
            if not self.failures:
                console.print("[bold red]the mistake was not found[/]" if self.mutant else "[bold green]all held[/]")
            elif self.mutant and not any(each.is_mistake_found for each in self.failures):
                console.print("[bold red]an exception finds no mistake: the patch may not fit the product any more[/]")
        return int(not any(each.is_mistake_found for each in self.failures) if self.mutant else bool(self.failures))


def replay(source: str, mutant: str) -> str:
    """Return the one command that runs a failure again."""
    planting = f" --mutant {mutant}" if mutant else ""
    return f"scripts/simulate.py {source}{planting} --explain auto"


# -- one scenario


def run_one(
    scenario: Scenario, source: str, mutant: str, out: Path | None, *, key: str | None, is_shrunk: bool, is_json: bool
) -> int:
    """Run one scenario, and if asked for make it small and explain it.  Return the exit status."""
    verdict = run_planted(scenario, mutant)
    if is_shrunk and verdict.problem is not None:
        verdict = shrunk(verdict, source, mutant, out)
    if is_json:
        click.echo(json.dumps(facts(verdict)))
    else:
        show(verdict)
    if key is not None:
        key = key_of(verdict.scenario, verdict.problem.text if verdict.problem else "") if key == "auto" else key
        with planted(mutant):
            timeline(key, explain(verdict.scenario, key))
    return int((verdict.problem is not None) != bool(mutant))


def shrunk(verdict: Verdict, source: str, mutant: str, out: Path | None) -> Verdict:
    """Return a smaller failure, and write it down."""
    with console.status("shrinking") as status, planted(mutant):

        def on_progress(smaller: Scenario, runs: int) -> None:
            status.update(f"after {runs} runs: {smaller.operations} operations, {len(smaller.faults)} faults")

        verdict = shrink(verdict, on_progress=on_progress)
    path = out or Path(f"seed-{verdict.scenario.seed}.json")
    path.write_text(verdict.scenario.to_json())
    console.print(f"{source} made smaller: {replay(f'--scenario {path}', mutant)}")
    return verdict


def facts(verdict: Verdict) -> dict[str, object]:
    """Return a verdict as JSON gives it."""
    problem = asdict(verdict.problem) if verdict.problem else None
    counts = {status: verdict.count(status) for status in ("ok", "fail", "info")}
    known = {"digest": verdict.digest, "steps": verdict.steps, "virtual_s": verdict.virtual_s}
    return {"scenario": asdict(verdict.scenario), "problem": problem, "operations": counts, **known}


def show(verdict: Verdict) -> None:
    """Show what a scenario was and how it ended."""
    scenario, cluster = verdict.scenario, verdict.scenario.cluster
    table = Table(box=None, show_header=False)
    quorums = f"N={cluster.replicas} Q1={cluster.q1} Q2={cluster.q2}"
    table.add_row("cluster", f"{cluster.nodes} nodes, {quorums}, {cluster.durability}, mix {cluster.mix}")
    table.add_row("limits", ", ".join(f"{name} {value:g}" for name, value in cluster.limits.items()))
    if any(cluster.offsets_ms):
        table.add_row("clocks", " ".join(f"{offset:+d} ms" for offset in cluster.offsets_ms))
    for number, acts in enumerate(scenario.clients):
        if acts:
            table.add_row(f"client {number}", escape(", ".join(_call(act.f, act.keys, act.strong) for act in acts)))
    for fault in scenario.faults:
        span = f"{fault.at_ms:.0f} ms for {fault.for_ms:.0f} ms"
        table.add_row("fault", f"{fault.kind} {' '.join(map(str, fault.nodes))} ({fault.amount:g}), at {span}")
    counts = ", ".join(f"{verdict.count(status)} {status}" for status in ("ok", "fail", "info"))
    table.add_row("run", f"{verdict.steps} steps, {verdict.virtual_s:.2f} s, {counts}, digest {verdict.digest}")
    console.print(table)
    if verdict.problem is None:
        console.print("[bold green]all held[/]")
    else:
        console.print(f"[bold red]{escape(verdict.problem.text)}[/]")
        for line in verdict.problem.evidence:
            console.print(f"  {escape(line)}", soft_wrap=True)


def _call(f: str, keys: Iterable[str], is_strong: bool) -> str:
    return f"{'' if is_strong else 'eventual '}{f} {' '.join(keys)}"


def timeline(key: str, lines: list[Line]) -> None:
    """Show what happened to one key."""
    console.rule(f"the timeline of {key}")
    for line in lines:
        style, text = STYLES[line.sort], escape(f"{line.at_ms:10.3f}  {line.who:12s} {line.what}")
        console.print(f"[{style}]{text}[/]" if style else text, soft_wrap=True)


if __name__ == "__main__":
    main()
