"""The script: what it prints, draws and exits with."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from checkers.history import dump
from checkers.operation import Operation
from click.testing import CliRunner, Result
from unit.checkers.histories import counted, good_history, history, read, weak_wrote, wrote

from scripts import check_history

BAD = [
    wrote("<a>", 0, 1_000_000),
    wrote("b", 2_000_000, 3_000_000),
    read("<a>", 4_000_000, 5_000_000),
    weak_wrote("c", 4_500_000, None),
]


def check(folder: Path, operations: list[Operation], *options: str) -> Result:
    text = io.StringIO()
    dump(operations, text)
    (folder / "history.jsonl").write_text(text.getvalue())
    return CliRunner().invoke(check_history.main, [str(folder / "history.jsonl"), *options])


def test_a_good_history_is_exit_code_0(tmp_path: Path) -> None:
    result = check(tmp_path, good_history(1))
    assert result.exit_code == 0
    assert "violated" not in result.output


def test_a_violation_is_exit_code_1_with_the_operations_that_show_it(tmp_path: Path) -> None:
    result = check(tmp_path, history(*BAD))
    assert result.exit_code == 1
    assert "read -> <a>" in result.output
    assert "violated on 1 key" in result.output


def test_an_unreadable_history_is_exit_code_2_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"i":0}\n')
    for name, words in (
        ("bad.jsonl", 'line 1 has "process" None'),
        ("missing.jsonl", "cannot read"),
        (".", "cannot read"),
    ):
        result = CliRunner().invoke(check_history.main, [str(tmp_path / name)])
        assert result.exit_code == 2
        assert words in " ".join(result.output.split())


def test_a_key_that_cannot_be_judged_is_exit_code_3(tmp_path: Path) -> None:
    """An odd sum of even increments, any of which may have been applied: within all bounds, and hard to refute."""
    lost = [counted(None, 0, None, by=2 << number) for number in range(40)]
    result = check(tmp_path, history(*lost, read(1, 5, 6)), "--steps", "100")
    assert result.exit_code == 3
    assert "unknown: too many unknown outcomes" in result.output


def test_the_report_is_json_on_demand(tmp_path: Path) -> None:
    report = json.loads(check(tmp_path, history(*BAD), "--json").output)
    assert report["ok"] is False
    assert report["operations"] == 4


def test_only_the_keys_asked_for_are_judged(tmp_path: Path) -> None:
    other = replace(wrote("c", 0, 1), key="other")
    assert check(tmp_path, history(*BAD, other), "--key", "other").exit_code == 0
    assert check(tmp_path, history(*BAD, other), "--key", "k", "--key", "other").exit_code == 1


def test_nothing_is_not_judged_as_good(tmp_path: Path) -> None:
    """A key that was misspelt, a recorder that wrote nothing."""
    assert check(tmp_path, history(*BAD), "--key", "other").exit_code == 2
    assert check(tmp_path, []).exit_code == 2


@pytest.fixture
def page(tmp_path: Path) -> str:
    check(tmp_path, history(*BAD), "--html", str(tmp_path / "page.html"))
    return (tmp_path / "page.html").read_text()


def test_the_page_needs_nothing_from_elsewhere(page: str) -> None:
    addresses = set(re.findall(r"(?:https?:)?//[\w.]+", page))
    assert addresses <= {"http://www.w3.org"}
    assert "<link" not in page
    assert "src=" not in page


def test_the_page_draws_the_operations_and_escapes_what_they_say(page: str) -> None:
    assert "read \u2192 &lt;a&gt;" in page
    assert "<a>" not in page
    assert page.count("<svg") == page.count("</svg>") >= 2
    assert "operation 2: read -&gt; &lt;a&gt;" in page


def test_an_operation_without_an_answer_fades(page: str) -> None:
    assert re.search(
        r'class="operation write eventual open aside"[^>]*data-tip="operation 3: eventual write\(c\)', page
    )
