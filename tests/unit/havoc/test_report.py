"""The report of a chaos run: well-formed, alone, and honest about what was violated."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from checkers.operation import Mode, Operation
from checkers.report import CheckerResult, Report

from kvnode.local import detached, statefile
from kvnode.local.child import Child
from scripts.havoc import cluster, report, schedule, verdict
from scripts.havoc.agreement import Healed, Held, State
from scripts.havoc.catalogue import NEMESES
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
    made = Course(plan, 3, "injected", 0, 9 * SECOND_NS, 9 * SECOND_NS, 10 * SECOND_NS)
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


def test_replicas_that_differ_at_rest_are_a_violation_with_their_states_and_the_last_operations(course: Course) -> None:
    held = tuple(Held(node, (version, ""), f"1 byte ({version})") for node, version in (("n1", "5"), ("n2", "4")))
    course.healed = {"at rest": Healed(40, None, [State("k", held)], ["n1 owes 3 hints to n2"])}
    judged = verdict.of(course)
    assert judged.violations == [
        "agreement: k: at rest its replicas do not agree by themselves: n1 holds 1 byte (5); n2 holds 1 byte (4)",
        "debts: n1: at rest n1 owes 3 hints to n2",
    ]
    finding = next(j for j in judged.judgements if j.name == "agreement").violations[0].finding
    assert finding is not None
    assert [operation.index for operation in finding.evidence] == list(range(28, 40))
    page = report.page(course, judged)
    assert "1 do not" in page
    assert '<div class="timeline"><svg' in page


def test_replicas_that_agree_are_said_to(course: Course) -> None:
    course.healed = {"after the last fault": Healed(40, 1.25), "at rest": Healed(41, 0.0)}
    judged = verdict.of(course)
    assert judged.is_ok
    told = {judgement.name: (judgement.verdict, judgement.judged) for judgement in judged.judgements}
    assert told["agreement"] == ("holds", "40 keys after the last fault: 1.2 s, 41 keys at rest: 0.0 s")
    assert told["debts"] == ("holds", "3 nodes")


@pytest.mark.parametrize(("keys", "unknown", "is_ok"), [(40, 1, True), (40, 2, False), (300, 3, True), (300, 4, False)])
def test_more_than_a_few_keys_that_could_not_be_judged_are_a_violation(
    course: Course, monkeypatch: pytest.MonkeyPatch, keys: int, unknown: int, is_ok: bool
) -> None:
    """A run that was not judged proves nothing, and says so however it ends."""
    result = CheckerResult("linear", "It is.", keys, unknown=[f"k{number}" for number in range(unknown)])
    monkeypatch.setattr(verdict, "judge", lambda operations: Report(1, keys, {}, [result]))
    judged = verdict.of(course)
    assert judged.is_ok == is_ok
    assert f"NOT JUDGED: {unknown} keys (k0 by linear" in str(judged)
    assert f"{unknown} keys not judged" in report.page(course, judged)


def test_reads_that_fail_alike_are_one_violation(course: Course) -> None:
    course.unread = [Unread(f"k{number}", "strong", "n1", "late") for number in range(100)]
    (words,) = verdict.of(course).violations
    assert words == "liveness: n1: 100 strong reads failed (k0, k1, k2, ...): late"


@pytest.mark.parametrize("mode", ["strong", "eventual"])
def test_a_node_that_takes_no_writes_at_rest_is_a_violation_unless_its_clock_was_ahead_at_its_start(
    course: Course, mode: Mode
) -> None:
    refused = Operation(0, 0, "write", "k", mode=mode, call_ns=course.rest_ns, return_ns=course.rest_ns, status="fail",
                        node="n1", error="no")  # fmt: skip
    course.operations += [replace(refused, index=100 + number, value=f"w{number}") for number in range(3)]
    (words,) = verdict.of(course).violations
    assert words == f"liveness: n1: at rest none of 3 {mode} writes succeeded: no"
    course.ahead_until_ns = {"n1": course.end_ns}
    assert verdict.of(course).is_ok


def test_an_outage_is_a_violation_where_a_majority_is_left(course: Course) -> None:
    window = course.windows[0]
    course.operations.clear()
    for names, is_ok in ((("kill-one",), False), (("kill-all",), True), (("kill-one", "partition"), True)):
        nemeses = tuple(NEMESES[name] for name in names)
        course.windows = [Window(nemeses, window.begin_ns, window.begin_ns + 6 * SECOND_NS)]
        assert verdict.of(course).is_ok == is_ok


def test_the_words_of_the_supervisor_about_a_death_are_understood(tmp_path: Path) -> None:
    """Else no death would ever be seen."""
    config = cluster.plan_cluster(tmp_path, 3)
    hurt = cluster.Cluster(config, tmp_path, None)
    log = hurt.directory / statefile.LOGS / detached.LOG_NAME
    log.parent.mkdir(parents=True)
    nodes = [Child(node.id, f"node {node.id}", node.address, hurt.directory) for node in config.nodes]
    log.write_text("".join(f"{node.epitaph(7, code)}\n" for node, code in zip(nodes, (1, -9, 0), strict=True)))
    assert [death.node for death in hurt.deaths()] == ["n1", "n2", "n3"]
    hurt.excuse("n2", "SIGKILL")
    assert len(hurt.deaths()) == 3, "an excuse comes before the death"
    with log.open("a") as again:
        again.write(f"{nodes[1].epitaph(8, -9)}\n{nodes[0].epitaph(8, -9)}\n")
    assert [death.node for death in hurt.deaths()] == ["n1", "n2", "n3", "n1"]
    hurt.excuse("n2", "SIGKILL")
    hurt.end_excuses()
    with log.open("a") as again:
        again.write(f"{nodes[1].epitaph(9, -9)}\n")
    assert [death.node for death in hurt.deaths()] == ["n1", "n2", "n3", "n1", "n2"], "an excuse has an end"


def test_a_node_is_excused_for_being_ahead_until_its_time_has_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3, R5: only one that was started so believes its clock."""
    now_s = 100.0
    monkeypatch.setattr(cluster.time, "monotonic", lambda: now_s)
    hurt = cluster.Cluster(cluster.plan_cluster(tmp_path, 3), tmp_path, None)
    hurt.set_clock("n1", 60_000)
    assert not hurt.is_excused_ahead("n1"), "its clock leapt while it ran"
    hurt._believe("n1")
    now_s = 110.0
    hurt.set_clock("n1")
    now_s = 110.0 + 60 + cluster.AHEAD_GRACE_S - 1
    assert hurt.is_excused_ahead("n1")
    assert hurt.ahead_s() == 1
    now_s += 2
    assert not hurt.is_excused_ahead("n1")
    assert (hurt.ahead_s(), hurt.ahead_s(60.0)) == (0, 59)
    hurt.set_clock("n1", 60_000)
    hurt.set_clock("n1")
    assert not hurt.is_excused_ahead("n1"), "and again it leapt while it ran"
