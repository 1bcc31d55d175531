"""The history format: what a recorder writes is what is read, and a wrong line is named."""

from __future__ import annotations

import io
import json
from itertools import count

import pytest
from checkers.history import HistoryError, Operation, Recorder, describe, dump, loads

INVOKE = {"i": 0, "process": 0, "type": "invoke", "f": "read", "key": "k", "time": 1}
OK = {"i": 0, "process": 0, "type": "ok", "f": "read", "key": "k", "time": 2, "value": "a"}


def recorded(out: io.StringIO | None = None) -> Recorder:
    ticks = count(1)
    recorder = Recorder(lambda: next(ticks), out)
    create = recorder.invoke("ada", "create", "k", "a1", node="n1", req="s/1")
    recorder.ok(create, etag="E1")
    cas = recorder.invoke("ada", "cas", "k", "a2", etag="E1")
    read = recorder.invoke("bob", "read", "k")
    recorder.ok(read, "a2", "E2", node="n2")
    recorder.refused(cas, "a3", "E3")
    recorder.info(recorder.invoke("ada", "write", "k", "a4", mode="eventual", ttl_ms=50), "timeout")
    recorder.fail(recorder.invoke("ada", "delete", "k", etag="E3"), "overloaded")
    recorder.ok(recorder.invoke("bob", "incr", "n", 2), 5, "E9")
    recorder.ok(recorder.invoke("bob", "read", "k", is_final=True))
    recorder.invoke("eve", "write", "k", "a5")
    return recorder


def test_what_was_recorded_is_what_is_read() -> None:
    out = io.StringIO()
    recorder = recorded(out)
    assert loads(out.getvalue()) == recorder.operations


def test_a_dumped_history_is_what_was_dumped() -> None:
    out = io.StringIO()
    dump(recorded().operations, out)
    assert loads(out.getvalue()) == recorded().operations


def test_the_invoke_is_written_before_the_answer() -> None:
    out = io.StringIO()
    recorder = Recorder(lambda: 7, out)
    index = recorder.invoke("ada", "write", "k", "a1")
    assert json.loads(out.getvalue())["type"] == "invoke"
    assert recorder.operations[index].status == "info"
    recorder.ok(index)
    assert [json.loads(line)["type"] for line in out.getvalue().splitlines()] == ["invoke", "ok"]


def test_overlapping_calls_of_one_client_are_different_processes() -> None:
    recorder = Recorder(lambda: 0)
    one, two = recorder.invoke("ada", "read", "k"), recorder.invoke("ada", "read", "k")
    recorder.ok(one)
    three = recorder.invoke("ada", "read", "k")
    processes = [recorder.operations[index].process for index in (one, two, three)]
    assert processes[0] != processes[1]
    assert processes[0] == processes[2]


def test_an_unknown_outcome_retires_its_process() -> None:
    recorder = Recorder(lambda: 0)
    lost = recorder.invoke("ada", "write", "k", "a1")
    recorder.info(lost)
    later = recorder.invoke("ada", "write", "k", "a2")
    assert recorder.operations[lost].process != recorder.operations[later].process


def test_a_torn_last_line_is_left_out() -> None:
    text = json.dumps(INVOKE) + "\n" + json.dumps(OK)[:20]
    [operation] = loads(text)
    assert operation.status == "info"
    with pytest.raises(HistoryError, match="line 2 is not JSON"):
        loads(text + "\n")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([OK], "line 1 completes process 0, which has invoked nothing"),
        ([INVOKE, INVOKE], "line 2 invokes while process 0 still waits"),
        ([INVOKE, {**OK, "type": "info"}, INVOKE], "line 3 uses process 0, retired by the info of line 2"),
        ([{**INVOKE, "f": "swap"}], "line 1 has \"f\" 'swap': one of cas, create"),
        ([{**INVOKE, "mode": "weak"}], "line 1 has \"mode\" 'weak'"),
        ([{**INVOKE, "type": "done"}], "line 1 has \"type\" 'done'"),
        ([{**INVOKE, "key": 7}], 'line 1 has "key" 7: a string'),
        ([{**INVOKE, "process": "p"}], "line 1 has \"process\" 'p': an integer"),
        ([{**INVOKE, "time": 1.5}], 'line 1 has "time" 1.5: an integer'),
        ([{**INVOKE, "i": True}], 'line 1 has "i" True: an integer'),
        ([{**INVOKE, "etag": 5}], 'line 1 has "etag" 5: a string'),
        ([INVOKE, {**OK, "value": ["a"]}], 'line 2 has "value" '),
        ([INVOKE, {**OK, "time": 0}], "line 2 completes at 0, before its invoke at 1: use one monotonic clock"),
        ([[1, 2]], "line 1 is \\[1, 2\\]: write a JSON object"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_right(lines: list[object], message: str) -> None:
    with pytest.raises(HistoryError, match=message):
        loads("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("index", "text"),
    [
        (0, "create(a1) -> ok"),
        (1, "cas(a2) over E1 -> refused, saw a3"),
        (2, "read -> a2"),
        (3, "eventual write(a4) -> unknown"),
        (4, "delete over E3 -> not applied"),
        (5, "incr(2) -> 5"),
        (6, "read -> absent"),
        (7, "write(a5) -> unknown"),
    ],
)
def test_an_operation_is_told_in_a_few_words(index: int, text: str) -> None:
    assert describe(recorded().operations[index]) == text


@pytest.mark.parametrize(
    ("operation", "is_strong"),
    [
        (Operation(0, 0, "write", "k", mode="eventual"), False),
        (Operation(0, 0, "write", "k", etag="E", mode="eventual"), True),
        (Operation(0, 0, "create", "k", mode="eventual"), True),
        (Operation(0, 0, "read", "k", mode="eventual"), False),
        (Operation(0, 0, "read", "k"), True),
    ],
)
def test_a_check_makes_an_operation_strong(operation: Operation, is_strong: bool) -> None:
    """Protocol section 2: first-write takes the strong path, whatever the consistency says."""
    assert operation.is_strong is is_strong
