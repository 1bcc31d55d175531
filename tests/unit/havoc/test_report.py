"""The report of a chaos run: well-formed, alone, and honest about what was violated."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from checkers.operation import Operation

from scripts.havoc import report, schedule, verdict
from scripts.havoc.cluster import Death
from scripts.havoc.measure import SECOND_NS
from scripts.havoc.run import Course, Window
from scripts.havoc.workload import Unread

VOID = {"meta"}


class Balance(HTMLParser):
    """Raises for a tag that is closed where it is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def course() -> Course:
    plan = schedule.make(28, 1)
    made = Course(plan, 3, "injected", 0, 9 * SECOND_NS, 10 * SECOND_NS)
    made.windows = [Window(plan.windows[0], 4 * SECOND_NS, 6 * SECOND_NS, [(4 * SECOND_NS, "<n1> & n2")])]
    made.operations = [
        Operation(number, 0, "write", "k", f"v{number}", call_ns=number * SECOND_NS // 4,
                  return_ns=number * SECOND_NS // 4 + 1_000_000, status="ok")
        for number in range(40)
    ]  # fmt: skip
    return made


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(course: Course) -> None:
    page = report.page(course, verdict.of(course))
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    assert not re.search(r"https?:|<script|<link|src=|url\(|@import", page)
    assert "prefers-color-scheme: dark" in page


def test_what_was_said_is_shown_as_text(course: Course) -> None:
    assert "&lt;n1&gt; &amp; n2" in report.page(course, verdict.of(course))


def test_a_run_without_violation_says_so(course: Course) -> None:
    judged = verdict.of(course)
    assert judged.is_ok
    assert "No violation" in report.page(course, judged)


def test_a_lost_write_is_a_violation_and_its_operations_are_shown(course: Course) -> None:
    last = course.operations[-1]
    course.operations.append(
        Operation(40, 1, "read", "k", call_ns=last.call_ns + 2_000_000, return_ns=last.call_ns + 3_000_000,
                  status="ok", saw="v3")
    )  # fmt: skip
    judged = verdict.of(course)
    page = report.page(course, judged)
    assert not judged.is_ok
    assert '<div class="timeline"><svg' in page
    assert 'class="banner bad"' in page


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("deaths", Death("n1", "exited with code 1")),
        ("troubles", "n1 does not serve"),
        ("unread", Unread("k", "strong", "n1", "n1 did not answer in time")),
    ],
)
def test_what_must_not_happen_besides_is_a_violation_too(course: Course, where: str, what: object) -> None:
    getattr(course, where).append(what)
    assert len(verdict.of(course).violations) == 1


def test_reads_that_fail_alike_are_one_violation(course: Course) -> None:
    course.unread = [Unread(f"k{number}", "strong", "n1", "late") for number in range(100)]
    (words,) = verdict.of(course).violations
    assert words == "liveness: n1: 100 strong reads failed (k0, k1, k2, ...): late"
