"""Strip charts as inline SVG: what succeeded and what did not, second by second, and how long it took.

Decides: how a chart is drawn.  Leaves to others: the numbers (`measure`) and the page (`report`), whose style sheet
gives the colours by class, so that a chart is right on light and on dark paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final, NamedTuple

from scripts.havoc.measure import Second

WIDTH: Final = 1000
AVAILABILITY_HEIGHT: Final = 120
LATENCY_HEIGHT: Final = 64
LATENCY_MS: Final = (1.0, 10_000.0)
"""The scale's ends; it is logarithmic."""


class Band(NamedTuple):
    """A span of a chart in which something was wrong."""

    begin_s: float
    end_s: float
    label: str


def availability(seconds: Sequence[Second], bands: Iterable[Band] = (), *, height: int = AVAILABILITY_HEIGHT) -> str:
    """Return a chart of outcomes: a bar for each second, what succeeded upwards, what did not on top of it."""
    top = max((second.ok + second.failed + second.unknown for second in seconds), default=0) or 1
    step = WIDTH / max(1, len(seconds))
    parts = _bands(bands, step, height)
    for number, second in enumerate(seconds):
        parts.append(_bar(number, second, step, height, top))
    parts.append(_axis(len(seconds), step, height))
    parts.append(f'<text class="tick" x="2" y="10">{top} a second</text>')
    return _svg("availability: operations by outcome, second by second", height + 14, parts)


def _bar(number: int, second: Second, step: float, height: int, top: int) -> str:
    x, y = number * step, float(height)
    shown = (
        ("strong", second.strong),
        ("eventual", second.eventual),
        ("failed", second.failed),
        ("unknown", second.unknown),
    )
    words = f"second {number}: " + ", ".join(f"{count} {name}" for name, count in shown)
    rectangles = []
    for name, count in shown:
        tall = count / top * (height - 12)
        y -= tall
        if count:
            rectangles.append(
                f'<rect class="{name}" x="{x:.1f}" y="{y:.1f}" width="{max(step - 0.5, 0.5):.1f}" height="{tall:.1f}"/>'
            )
    if not second.ok:
        rectangles.append(
            f'<rect class="outage" x="{x:.1f}" y="{height - 4}" width="{max(step - 0.5, 0.5):.1f}" height="4"/>'
        )
    return f"<g><title>{words}</title>{_hover(x, step, height)}{''.join(rectangles)}</g>"


def _hover(x: float, step: float, height: int) -> str:
    """Return a rectangle that is not seen, and shows the second's numbers wherever the pointer is in its column."""
    return f'<rect class="hover" x="{x:.1f}" y="0" width="{step:.1f}" height="{height}"/>'


def latency(seconds: Sequence[Second], bands: Iterable[Band] = (), *, height: int = LATENCY_HEIGHT) -> str:
    """Return a chart of the 99th percentile of each second, on a logarithmic scale."""
    step = WIDTH / max(1, len(seconds))
    parts = _bands(bands, step, height, is_named=False)
    for ms in (10.0, 100.0, 1000.0):
        y = _height_of(ms, height)
        parts.append(f'<line class="grid" x1="0" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="2" y="{y - 2:.1f}">{ms:g} ms</text>')
    for number, second in enumerate(seconds):
        if second.p99_ms is not None:
            x, y = number * step, _height_of(second.p99_ms, height)
            title = f"<title>second {number}: 99 % within {second.p99_ms:.1f} ms</title>"
            dot = f'<line class="p99" x1="{x:.1f}" x2="{x + step:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            parts.append(f"<g>{title}{_hover(x, step, height)}{dot}</g>")
    return _svg("latency: 99th percentile, second by second", height, parts)


def _height_of(ms: float, height: int) -> float:
    low, high = (math.log10(end) for end in LATENCY_MS)
    part = (math.log10(min(max(ms, LATENCY_MS[0]), LATENCY_MS[1])) - low) / (high - low)
    return height - 2 - part * (height - 6)


def _bands(bands: Iterable[Band], step: float, height: int, *, is_named: bool = True) -> list[str]:
    parts = []
    for band in bands:
        x, wide = band.begin_s * step, (band.end_s - band.begin_s) * step
        title = f"<title>{escape(band.label)}</title>" if is_named else ""
        parts.append(
            f'<rect class="band" x="{x:.1f}" y="0" width="{max(wide, 1):.1f}" height="{height}">{title}</rect>'
        )
    return parts


def _axis(seconds: int, step: float, height: int) -> str:
    every = next(each for each in (1, 2, 5, 10, 30, 60, 120, 300, 600, 3600) if seconds / each <= 20 or each == 3600)
    ticks = (
        f'<text class="tick" x="{at * step:.1f}" y="{height + 11}">{at} s</text>' for at in range(0, seconds, every)
    )
    return f'<line class="axis" x1="0" x2="{WIDTH}" y1="{height}" y2="{height}"/>' + "".join(ticks)


def _svg(title: str, height: int, parts: Iterable[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
