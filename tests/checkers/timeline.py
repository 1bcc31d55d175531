"""The picture of a finding: who asked for what and when, as inline SVG in one HTML page that needs nothing else.

Decides: where things are drawn and how they look.  A bar is an operation from its call to its answer; time is drawn in
the order of calls and answers, not to scale, because only the order matters and idle time would hide it.  Whatever the
finding does not need is in a second, fainter picture.  `figures` gives the part for one finding, for pages of others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from checkers.keyed import NEVER_NS, returned_ns
from checkers.operation import Operation, describe
from checkers.report import CheckerResult, Finding, Report

CONTEXT_MAX: Final = 60
"""Other operations drawn around a finding."""
_STEP: Final = 28
_LANE: Final = 34
_BAR: Final = 24
_LEFT: Final = 64
_TOP: Final = 12
_GLYPH: Final = 6.8
_FADE: Final = (
    '<defs><linearGradient id="fade"><stop offset=".3" stop-color="white"/><stop offset="1" stop-color="black"/>'
    '</linearGradient><mask id="open" maskContentUnits="objectBoundingBox"><rect width="1" height="1" '
    'fill="url(#fade)"/></mask></defs>'
)

STYLE: Final = """
:root { color-scheme: light dark; --ground: #ffffff; --panel: #f5f6f8; --ink: #1b1f24; --faint: #6a737d;
  --line: #d9dde3; --read: #2f6fde; --write: #13855c; --delete: #b8590b; --refused: #6a737d; --weak: #7c4dcc;
  --bad: #c62f3b; --good: #13855c; --unsure: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --panel: #1d2127; --ink: #e3e7ec; --faint: #949da8;
  --line: #343a43; --read: #4c8dff; --write: #2aa876; --delete: #e07f2a; --refused: #8b949e; --weak: #a07bea;
  --bad: #f0616d; --good: #35c08a; --unsure: #d9a422; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1100px; padding: 32px 24px; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 40px 0 4px; }
p { margin: 4px 0 12px; } .faint { color: var(--faint); } code { font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; color: var(--faint); font-weight: 500; }
th, td { padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.violated { color: var(--bad); font-weight: 600; } .holds { color: var(--good); } .unknown { color: var(--unsure); }
.timeline { overflow-x: auto; background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: 8px; margin: 12px 0; }
.timeline svg { display: block; font: 11px ui-monospace, monospace; }
.timeline .lane { stroke: var(--line); } .timeline .who, .timeline .when { fill: var(--faint); }
.timeline .bar { stroke-width: 1.5; fill: var(--kind); fill-opacity: .16; stroke: var(--kind); }
.timeline .say { fill: var(--ink); pointer-events: none; }
.timeline .read { --kind: var(--read); } .timeline .write { --kind: var(--write); }
.timeline .delete { --kind: var(--delete); } .timeline .refused { --kind: var(--refused); }
.timeline .eventual .bar { stroke-dasharray: 5 3; } .timeline .open .bar { mask: url(#open); }
.timeline .last .bar { stroke: var(--bad); stroke-width: 3; }
.timeline .aside { opacity: .5; } .timeline .operation:hover { opacity: 1; }
.timeline .operation:hover .bar { fill-opacity: .4; }
details summary { cursor: pointer; color: var(--faint); }
#tip { position: fixed; display: none; max-width: 460px; padding: 6px 10px; border-radius: 6px; font-size: 13px;
  background: var(--ink); color: var(--ground); pointer-events: none; white-space: pre-line; z-index: 1; }
"""

SCRIPT: Final = """
const tip = document.getElementById("tip");
document.addEventListener("mousemove", (event) => {
  const bar = event.target.closest("[data-tip]");
  tip.style.display = bar ? "block" : "none";
  if (!bar) return;
  tip.textContent = bar.dataset.tip;
  tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
  tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + "px";
});
"""


HEADINGS: Final = (
    '<tr><th>Checker<th>Promise<th class="number">Keys<th class="number">Seconds<th>Verdict</tr>'  # of the verdicts
)


def page(report: Report, operations: Sequence[Operation], title: str) -> str:
    """Return the whole page: the verdicts, and for each finding its pictures and operations."""
    rows = "".join(map(_verdict_row, report.checkers))
    counts = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(report.counts.items(), key=lambda c: -c[1]))
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="faint">{report.operations:,} operations on {report.keys:,} keys: {counts}</p>',
        f"<table>{HEADINGS}{rows}</table>",
    ]
    for number, finding in enumerate(report.findings, 1):
        parts.append(f"<h2>{number}. {escape(finding.checker)}: key <code>{escape(finding.key)}</code></h2>")
        parts.append(f"<p>{escape(finding.message[:1].upper() + finding.message[1:])}.</p>")
        parts.append(figures(finding, [operation for operation in operations if operation.key == finding.key]))
    if report.findings:
        parts.append(LEGEND)
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n{body}\n"
        f'<div id="tip"></div>\n<script>{SCRIPT}</script>\n</body></html>\n'
    )


LEGEND: Final = (
    '<p class="faint">A bar is an operation from its call to its answer; from left to right in the order in which that '
    "happened, not to scale. Blue reads, green writes, orange deletes, grey was refused, dashed is eventual. A bar "
    "that fades has no answer: nobody knows whether and when it took effect. A red frame marks the answer that "
    "completes the contradiction.</p>"
)


def _verdict_row(checker: CheckerResult) -> str:
    kind = {"violated": "violated", "holds": "holds", "unknown": "unknown"}.get(checker.verdict, "faint")
    verdict = checker.verdict
    if checker.findings:
        verdict = f"violated on {_keys(len(checker.findings))}"
    elif checker.unknown:
        verdict = f"unknown on {_keys(len(checker.unknown))}: too many unknown outcomes"
    return (
        f"<tr><td>{escape(checker.name)}<td>{escape(checker.promise)}"
        f'<td class="number">{checker.keys:,}<td class="number">{checker.elapsed_s:.2f}'
        f'<td class="{kind}">{escape(verdict)}</tr>'
    )


def _keys(count: int) -> str:
    return f"{count:,} key" + "s" * (count != 1)


def figures(finding: Finding, operations: Iterable[Operation]) -> str:
    """Return the pictures of a finding, without and with what else happened to its key, and the table of operations.

    The page needs STYLE, and SCRIPT with an element `tip` if operations are to be shown under the mouse.
    """
    evidence = sorted(finding.evidence, key=lambda operation: operation.call_ns)
    around = _around(evidence, operations)
    text = f'<div class="timeline">{picture(evidence, evidence)}</div>'
    if len(around) > len(evidence):
        others = len(around) - len(evidence)
        text += f"<details><summary>with {others} others on this key around it</summary>"
        text += f'<div class="timeline">{picture(around, evidence)}</div></details>'
    return text + _table(evidence)


def _around(evidence: Sequence[Operation], operations: Iterable[Operation]) -> list[Operation]:
    """Return the evidence with what overlaps it, changes first if there is too much."""
    begin = min(operation.call_ns for operation in evidence)
    end = max(_end_ns(operation) for operation in evidence)
    known = {operation.index for operation in evidence}
    others = [
        operation
        for operation in operations
        if operation.index not in known and operation.call_ns <= end and returned_ns(operation) >= begin
    ]
    others.sort(key=lambda operation: (not operation.may_change, -operation.call_ns))
    return sorted([*evidence, *others[:CONTEXT_MAX]], key=lambda operation: operation.call_ns)


def _end_ns(operation: Operation) -> int:
    return operation.call_ns if operation.return_ns is None else operation.return_ns


@dataclass(frozen=True)
class _Bar:
    operation: Operation
    lane: int
    left: float
    right: float
    is_open: bool


def picture(operations: Sequence[Operation], evidence: Sequence[Operation]) -> str:
    """Return the SVG of some operations; those that are no evidence are faint."""
    bars, places = _laid_out(operations)
    lanes = 1 + max(bar.lane for bar in bars)
    width = round(max(bar.right for bar in bars)) + 3 * _STEP
    height = _TOP + _LANE * lanes + 24
    known = {operation.index for operation in evidence}
    last = max((operation for operation in evidence if operation.return_ns), key=returned_ns, default=None)
    drawn = [_lane_text(operations, bars, lane, width) for lane in range(lanes)]
    for bar in bars:
        kind = _kind(bar.operation) + (" open" if bar.is_open else "")
        kind += "" if bar.operation.index in known else " aside"
        kind += " last" if last is not None and bar.operation.index == last.index else ""
        drawn.append(_bar_text(bar, kind))
    drawn += _scale(places, height)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        f' role="img" aria-label="{len(operations)} operations in time">{_FADE}{"".join(drawn)}</svg>'
    )


def _laid_out(operations: Sequence[Operation]) -> tuple[list[_Bar], dict[int, float]]:
    """Give each moment its place, and each operation its lane, shared by processes one after the other."""
    places = _placed(operations)
    end = max(places.values()) + _STEP
    free: list[float] = []
    owner: dict[int, int] = {}
    bars: list[_Bar] = []
    for operation in operations:
        left, is_open = places[operation.call_ns], operation.return_ns is None
        right = max(end, left + _width(operation)) if is_open else places[_end_ns(operation)]
        lane = owner.get(operation.process, -1)
        if lane < 0 or free[lane] > left:
            lane = next((number for number, until in enumerate(free) if until <= left), len(free))
            if lane == len(free):
                free.append(0)
            owner[operation.process] = lane
        free[lane] = right + 4
        bars.append(_Bar(operation, lane, left, right, is_open))
    return bars, places


def _placed(operations: Sequence[Operation]) -> dict[int, float]:
    """Return where each moment is drawn: in order, and so far apart that every bar has room for its words."""
    ends: dict[int, list[Operation]] = {}
    for operation in operations:
        ends.setdefault(operation.call_ns, [])
        ends.setdefault(_end_ns(operation), []).append(operation)
    places: dict[int, float] = {}
    at = _LEFT + 0.0
    for moment in sorted(ends):
        for operation in ends[moment]:
            if operation.return_ns is not None:
                at = max(at, places.get(operation.call_ns, at) + _width(operation))
        places[moment] = at
        at += _STEP
    return places


def _width(operation: Operation) -> float:
    return 14 + _GLYPH * len(_label(operation))


def _label(operation: Operation) -> str:
    if not operation.result:
        shown = "absent" if operation.saw is None else str(operation.saw)
        return f"{operation.f} {operation.value or ''} \u2717 {shown}"
    if operation.f in ("read", "incr") and operation.is_ok:
        return f"{operation.f} \u2192 {'absent' if operation.saw is None else operation.saw}"
    return f"{operation.f} {'' if operation.value is None else operation.value}".strip()


def _kind(operation: Operation) -> str:
    kind = "refused" if not operation.result else operation.f
    kind = kind if kind in ("read", "delete", "refused") else "write"
    return kind if operation.is_strong else f"{kind} eventual"


def _bar_text(bar: _Bar, kind: str) -> str:
    top = _TOP + _LANE * bar.lane + (_LANE - _BAR) / 2
    return (
        f'<g class="operation {kind}" data-tip="{escape(_tip(bar.operation))}">'
        f'<rect class="bar" x="{bar.left:g}" y="{top:g}" width="{bar.right - bar.left:g}" height="{_BAR}" rx="4"/>'
        f'<text class="say" x="{bar.left + 6:g}" y="{top + 16:g}">{escape(_label(bar.operation))}</text></g>'
    )


def _lane_text(operations: Sequence[Operation], bars: Sequence[_Bar], lane: int, width: float) -> str:
    y = _TOP + _LANE * (lane + 0.5)
    processes = list(dict.fromkeys(bar.operation.process for bar in bars if bar.lane == lane))
    who = ",".join(f"p{process}" for process in processes[:2]) + ("\u2026" if len(processes) > 2 else "")
    return (
        f'<line class="lane" x1="0" y1="{y + _LANE / 2:g}" x2="{width}" y2="{y + _LANE / 2:g}"/>'
        f'<text class="who" x="4" y="{y + 4:g}">{who}</text>'
    )


def _scale(places: Mapping[int, float], height: float) -> list[str]:
    """Return the times below, in milliseconds from the first call, as many as there is room for."""
    first, until, texts = min(places), 0.0, []
    for moment, x in places.items():
        text = _ms(moment - first)
        if x >= until:
            texts.append(f'<text class="when" x="{x:g}" y="{height - 8:g}">{text}</text>')
            until = x + _GLYPH * len(text) + 12
    return texts


def _ms(elapsed_ns: int) -> str:
    return f"{elapsed_ns / 1e6:,.3f}".rstrip("0").rstrip(".") + " ms"


def _tip(operation: Operation) -> str:
    lines = [f"operation {operation.index}: {describe(operation)}", f"process {operation.process}"]
    if operation.node:
        lines[-1] += f", {operation.node}"
    took = (
        "no answer" if operation.return_ns is None else f"answered after {_ms(operation.return_ns - operation.call_ns)}"
    )
    lines.append(took + (f" ({operation.error})" if operation.error else ""))
    if operation.saw_etag:
        lines.append(f"ETag {operation.saw_etag}")
    return "\n".join(lines)


def _table(evidence: Sequence[Operation]) -> str:
    begin = min(operation.call_ns for operation in evidence)
    rows = "".join(
        f'<tr><td class="number">{operation.index}<td>p{operation.process}<td>{escape(operation.node)}'
        f'<td class="number">{_ms(operation.call_ns - begin)}'
        f'<td class="number">{"never" if returned_ns(operation) == NEVER_NS else _ms(returned_ns(operation) - begin)}'
        f"<td>{escape(describe(operation))}</tr>"
        for operation in evidence
    )
    head = (
        '<tr><th class="number">#<th>Process<th>Node<th class="number">Call<th class="number">Answer<th>Operation</tr>'
    )
    return f"<table>{head}{rows}</table>"
