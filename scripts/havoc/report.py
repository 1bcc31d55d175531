"""The report of a chaos run: one HTML page without anything from elsewhere, for a reader who knows nothing of it.

Decides: what the page says and how it looks, on light and on dark paper.  Leaves to others: the numbers (`measure`),
the charts (`charts`), and the verdict (`verdict`).
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from checkers import timeline

import kvnode
from scripts.havoc import charts, measure
from scripts.havoc.agreement import Healed
from scripts.havoc.healing import Counts
from scripts.havoc.measure import SECOND_NS, Summary
from scripts.havoc.run import Course, Window
from scripts.havoc.verdict import Judgement, Verdict, Violation

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2430; --faint: #667085; --line: #d9dee7; --card: #f6f8fb;
  --strong: #2563a8; --eventual: #79b8e6; --failed: #98a2b3; --unknown: #e8a33d; --bad: #c8372d; --good: #22794a;
  --band: #fbe9d7; }
@media (prefers-color-scheme: dark) { :root { --paper: #12161d; --ink: #e6eaf0; --faint: #94a0b3; --line: #2c3542;
  --card: #1a2029; --strong: #5b9bdf; --eventual: #2f5f8a; --failed: #5f6b7d; --unknown: #d9963a; --bad: #f0665c;
  --good: #55b884; --band: #33291d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0; }
p { margin: .4rem 0; }
.faint, figcaption, .tick { color: var(--faint); }
.banner { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr));
  padding: 1rem 1.25rem; margin: 1.25rem 0; border-radius: 10px;
  background: var(--card); border-left: 6px solid var(--good); }
.banner.bad { border-color: var(--bad); }
.banner b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.banner span { color: var(--faint); font-size: .85rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; font-size: .8rem; color: var(--faint); }
th, td { padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; }
.scroll { overflow-x: auto; }
.holds { color: var(--good); font-weight: 600; } .violated { color: var(--bad); font-weight: 600; }
.unknown-verdict { color: var(--unknown); font-weight: 600; }
article { border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.25rem; margin: 1rem 0; }
article header { display: flex; justify-content: space-between; gap: 1rem; flex-wrap: wrap; align-items: baseline; }
article .numbers { color: var(--faint); font-size: .88rem; font-variant-numeric: tabular-nums; }
details { margin-top: .5rem; } summary { cursor: pointer; color: var(--faint); font-size: .88rem; }
ul.events { margin: .4rem 0 0; padding: 0; list-style: none; font-size: .88rem; }
ul.events time { display: inline-block; width: 4.5rem; color: var(--faint); }
figure { margin: .6rem 0 0; } figure svg { width: 100%; height: auto; display: block; }
svg .strong { fill: var(--strong); } svg .eventual { fill: var(--eventual); } svg .failed { fill: var(--failed); }
svg .unknown { fill: var(--unknown); } svg .outage { fill: var(--bad); } svg .band { fill: var(--band); }
svg .hover { fill: transparent; } svg g:hover .hover { fill: var(--faint); fill-opacity: .15; }
svg .axis { stroke: var(--line); } svg .grid { stroke: var(--line); stroke-dasharray: 2 4; }
svg .p99 { stroke: var(--strong); stroke-width: 2.5; } svg .tick { fill: var(--faint); font-size: 10px;
  paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
.legend { display: flex; gap: 1.1rem; flex-wrap: wrap; font-size: .85rem; color: var(--faint); margin: .4rem 0; }
.legend i { display: inline-block; width: .75rem; height: .75rem; border-radius: 2px; margin-right: .35rem; }
code, pre { font: .85rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
pre { overflow-x: auto; background: var(--card); padding: .8rem 1rem; border-radius: 8px; }
"""
SHOWN_MAX = 12
"""A violation that so many operations show is shown at once."""
LEGEND = (
    ("strong", "strong, answered"),
    ("eventual", "eventual, answered"),
    ("failed", "not applied, and said so"),
    ("unknown", "outcome unknown"),
    ("bad", "a second without any success"),
    ("band", "a fault is at work"),
)


def page(course: Course, judged: Verdict) -> str:
    """Return the whole page."""
    whole = measure.whole(course.operations, course.begin_ns, course.hold_ns, course.rest_ns, course.end_ns)
    body = [
        _head(course, judged, whole),
        _violations(course, judged),
        _run_chart(course, whole),
        _table(course),
        "<h2>Each fault</h2>",
        *(_article(course, window) for window in course.windows),
        _healing(course),
        _verdicts(judged.judgements),
        _how(course),
    ]
    title = f"kvnode under chaos, seed {course.plan.seed}"
    style = STYLE if judged.is_ok else timeline.STYLE + STYLE
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>'
        f"<body>{''.join(body)}</body></html>\n"
    )


def _head(course: Course, judged: Verdict, whole: Summary) -> str:
    count = len(judged.violations)
    word = "No violation" if judged.is_ok else f"{count} violation{'s' if count > 1 else ''}"
    unjudged = len(judged.unjudged)
    facts = (
        (word, "of any promise"),
        (f"{len(course.windows)}", "times something was done to it"),
        (f"{len(course.operations):,}", f"operations, {f'{unjudged} keys not judged' if unjudged else 'all judged'}"),
        (f"{whole.unknown:,}", "outcomes left unknown"),
        (f"{whole.gap_s:.1f} s", "longest time without a success"),
    )
    cells = "".join(f"<div><b>{fact}</b><span>{what}</span></div>" for fact, what in facts)
    minutes = (course.end_ns - course.begin_ns) / 60 / SECOND_NS
    return (
        "<h1>kvnode under chaos</h1>"
        f'<p class="faint">{course.nodes} real node processes, killed, cut off, slowed and lied to for {minutes:.1f} '
        "minutes while clients went on. Below is what they were told, second by second, and whether every promise was "
        "kept.</p>"
        f'<div class="banner{"" if judged.is_ok else " bad"}">{cells}</div>'
    )


def _violations(course: Course, judged: Verdict) -> str:
    found = [(judgement, violation) for judgement in judged.judgements for violation in judgement.violations]
    if not found:
        return ""
    articles = "".join(_violation(course, judgement, violation) for judgement, violation in found)
    return f"<h2>Violations</h2>{articles}{timeline.LEGEND}"


def _violation(course: Course, judgement: Judgement, violation: Violation) -> str:
    """Return what was promised, what happened instead, and a picture of the operations that show it."""
    picture = ""
    if violation.finding is not None:
        others = [operation for operation in course.operations if operation.key == violation.key]
        is_open = " open" if len(violation.finding.evidence) <= SHOWN_MAX else ""
        drawn = timeline.figures(violation.finding, others)
        picture = f"<details{is_open}><summary>the operations that show it</summary>{drawn}</details>"
    return (
        f'<article><h3 class="violated">{escape(judgement.name)}: {escape(violation.key)}</h3>'
        f'<p>{escape(violation.words)}</p><p class="faint">Promised: {escape(judgement.promise)}</p>{picture}</article>'
    )


def _run_chart(course: Course, whole: Summary) -> str:
    bands = [_band(window, course.begin_ns) for window in course.windows]
    hold_s, go_s = ((moment_ns - course.begin_ns) / SECOND_NS for moment_ns in (course.hold_ns, course.rest_ns))
    bands.append(charts.Band(hold_s, go_s, "nobody asks: replicas must come to agree"))
    colours = "".join(f'<span><i style="background:var(--{name})"></i>{words}</span>' for name, words in LEGEND)
    return (
        f'<h2>The whole run</h2><div class="legend">{colours}</div>'
        f"<figure>{charts.availability(whole.seconds, bands)}</figure>"
        f"<figure>{charts.latency(whole.seconds, bands)}<figcaption>99th percentile of each second; logarithmic."
        "</figcaption></figure>"
    )


def _band(window: Window, begin_ns: int) -> charts.Band:
    return charts.Band((window.begin_ns - begin_ns) / SECOND_NS, (window.end_ns - begin_ns) / SECOND_NS, window.name)


def _table(course: Course) -> str:
    spans = [(window.name, window.begin_ns, window.end_ns) for window in course.windows]
    if course.windows:
        spans.insert(0, ("(calm, before the first fault)", course.begin_ns, course.windows[0].begin_ns))
    rows = (_row(name, measure.summary(course.operations, begin, end)) for name, begin, end in spans)
    heads = ("ok", "not applied", "unknown", "p50 ms", "p99 ms", "longest gap", "without strong")
    return (
        '<h2>In numbers</h2><div class="scroll"><table><thead><tr><th>fault</th>'
        + "".join(f'<th class="n">{head}</th>' for head in heads)
        + f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(name: str, seen: Summary) -> str:
    cells = (
        f"{seen.ok:,}",
        f"{seen.failed:,}",
        f"{seen.unknown:,}",
        _ms(seen.p50_ms),
        _ms(seen.p99_ms),
        f"{seen.gap_s:.1f} s",
        f"{seen.strong_gap_s:.1f} s",
    )
    return f"<tr><td>{escape(name)}</td>" + "".join(f'<td class="n">{cell}</td>' for cell in cells) + "</tr>"


def _healing(course: Course) -> str:
    """Return how soon replicas held the same again without a read, and what had brought it to them."""
    rows = [(window.name, window.healed, window.repairs) for window in course.windows]
    rows += [(moment, healed, course.repairs) for moment, healed in course.healed.items()]
    heads = ("keys", "agree after", "hints", "by comparisons", "by reads", "proposals settled", "rows purged")
    body = "".join(_healed(name, healed, counts) for name, healed, counts in rows if healed is not None)
    if not body:
        return ""
    return (
        "<h2>How it heals</h2><p>What each replica holds is asked of it in a way that repairs nothing: after each "
        "fault of keys that no client uses any more, until the next one begins; after the last one, and again at rest, "
        "of all keys, while no client does anything. Beside it: what healed replicas meanwhile, of all keys.</p>"
        '<div class="scroll"><table><thead><tr><th>fault</th>'
        + "".join(f'<th class="n">{head}</th>' for head in heads)
        + f"</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _healed(name: str, healed: Healed, counts: Counts) -> str:
    cells = (f"{healed.keys:,}", healed.after, *(f"{count:,}" for count in counts))
    return f"<tr><td>{escape(name)}</td>" + "".join(f'<td class="n">{cell}</td>' for cell in cells) + "</tr>"


def _ms(ms: float | None) -> str:
    return "-" if ms is None else f"{ms:.1f}" if ms < 100 else f"{ms:,.0f}"


def _article(course: Course, window: Window) -> str:
    """Return one window: what was done, what must hold, and what clients saw from a little before to the mend."""
    begin_ns = window.begin_ns - 2 * SECOND_NS
    end_ns = window.end_ns + int(course.plan.mend_s * SECOND_NS)
    seen = measure.summary(course.operations, window.begin_ns, window.end_ns)
    seconds = measure.by_second(course.operations, begin_ns, end_ns)
    words = "".join(
        f"<p>{escape(nemesis.what)} <span class=faint>{escape(nemesis.promise)}</span></p>"
        for nemesis in window.nemeses
    )
    events = "".join(
        f"<li><time>{(at_ns - course.begin_ns) / SECOND_NS:.1f} s</time>{escape(said)}</li>"
        for at_ns, said in window.events
    )
    numbers = (
        f"{seen.ok:,} ok · {seen.failed:,} not applied · {seen.unknown:,} unknown · p50 {_ms(seen.p50_ms)} ms · p99"
        f" {_ms(seen.p99_ms)} ms · longest gap {seen.gap_s:.1f} s"
    )
    chart = charts.availability(seconds, [_band(window, begin_ns)], height=64)
    return (
        f'<article><header><h3>{escape(window.name)}</h3><span class="numbers">{numbers}</span></header>{words}'
        f"<figure>{chart}</figure><details><summary>what was done, and when</summary>"
        f'<ul class="events">{events}</ul></details></article>'
    )


def _verdicts(judgements: Sequence[Judgement]) -> str:
    rows = "".join(
        f"<tr><td>{escape(judgement.name)}</td><td>{escape(judgement.promise)}</td>"
        f'<td class="{_class(judgement.verdict)}">{escape(judgement.verdict)}</td>'
        f"<td>{escape(judgement.judged)}</td></tr>"
        for judgement in judgements
    )
    return (
        "<h2>What was checked</h2><p>That a history breaks no promise is no proof that none can be broken: the same "
        "checkers are shown planted mistakes in the test suite, and must find each.</p>"
        '<div class="scroll"><table><thead><tr><th>checker</th><th>promise</th><th>verdict</th><th>judged</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _class(verdict: str) -> str:
    return {"holds": "holds", "violated": "violated", "unknown": "unknown-verdict"}.get(verdict, "faint")


def _how(course: Course) -> str:
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    command = f"scripts/chaos.py --seed {course.plan.seed} --seconds {course.plan.asked_s:g} --nodes {course.nodes}"
    if course.plan.faults:
        command += f" --faults {','.join(course.plan.faults)}"
    return (
        "<h2>How it was run</h2>"
        "<p>Every node is a process of its own, with RocksDB and a sync before each acknowledgement. Between every two "
        "nodes is a TCP proxy that holds, delays, drips or resets bytes, each direction by itself. Half of the clients "
        "know one node only, so that one which is cut off is asked too. A key lives for a few hundred operations. The "
        f"full disk is {escape(course.disk)}; failing and slow syncs, and clocks, are injected where the process is "
        "put together. SIGKILL keeps the page cache: what a power cut does is the simulator's to show.</p>"
        f"<pre>{escape(command)}</pre>"
        f'<p class="faint">kvnode {kvnode.__version__}, Python {platform.python_version()}, {platform.system()}'
        f" {platform.machine()}; {when}.</p>"
    )
