"""Import and export against real nodes: nothing twice, nothing lost, every bad line named."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kvclient


def write_lines(path: Path, count: int, prefix: str = "k", pad: int = 0) -> Path:
    lines = (json.dumps({"key": f"{prefix}{i:06}", "value": {"n": i, "pad": "x" * pad}}) for i in range(count))
    path.write_text("".join(line + "\n" for line in lines))
    return path


def report_of(done: Any) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def test_an_import_is_exported_line_by_line_as_it_was(shared_cluster: Any, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "in.jsonl", 3000, "copy/")
    with file.open("a") as more:
        more.write('{"key": "copy/é\\n", "value": null}\n{"key": "copy/~bytes", "base64": "AAECAw=="}\n\n')
    done = shared_cluster.kvnode("import", str(file), "--json")
    facts = report_of(done)
    assert (done.returncode, facts["written"], facts["complete"]) == (0, 3002, True)
    out = tmp_path / "out.jsonl"
    assert shared_cluster.kvnode("export", "copy/", "--output", str(out)).returncode == 0
    wanted = sorted((json.loads(line) for line in file.read_text().splitlines() if line), key=lambda line: line["key"])
    assert [json.loads(line) for line in out.read_text().splitlines()] == wanted
    assert shared_cluster.kvnode("export", "copy/").stdout == out.read_text()


def test_an_export_says_that_it_is_eventual(shared_cluster: Any) -> None:
    assert "eventual" in shared_cluster.kvnode("export", "none/").stderr


def test_an_interrupted_export_goes_on_after_its_last_whole_line(shared_cluster: Any, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "in.jsonl", 50, "again/")
    shared_cluster.kvnode("import", str(file))
    out = tmp_path / "out.jsonl"
    assert shared_cluster.kvnode("export", "again/", "--output", str(out)).returncode == 0
    whole = out.read_bytes()
    names = {path.name for path in tmp_path.iterdir()}
    # what an interruption leaves: some lines, half a line, under the name that only this export uses
    shared_cluster.kvnode("export", "again/", "--output", str(tmp_path / "missing" / "out"))
    out.unlink()
    partial = next_partial(shared_cluster, "again/", out)
    partial.write_bytes(whole[: len(whole) // 2])
    assert shared_cluster.kvnode("export", "again/", "--output", str(out)).returncode == 0
    assert out.read_bytes() == whole
    assert {path.name for path in tmp_path.iterdir()} == names


def next_partial(cluster: Any, prefix: str, out: Path) -> Path:
    """Return where an export keeps its lines until it is complete."""
    from kvnode.cli import dump, show

    identity = show.as_json([cluster.config.cluster_name, "default", prefix])
    return dump.partial_path(out, identity)


def test_a_second_run_of_a_finished_import_writes_nothing(shared_cluster: Any, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "in.jsonl", 20, "twice/")
    shared_cluster.kvnode("import", str(file))
    shared_cluster.kvnode("put", "twice/000003", '"changed since"', "--consistency", "strong")
    facts = report_of(shared_cluster.kvnode("import", str(file), "--json"))
    assert (facts["written"], facts["before"], facts["complete"]) == (0, 20, True)
    assert shared_cluster.kvnode("get", "twice/000003").stdout == '"changed since"\n'
    facts = report_of(shared_cluster.kvnode("import", str(file), "--json", "--again"))
    assert facts["written"] == 20
    assert json.loads(shared_cluster.kvnode("get", "twice/000003").stdout)["n"] == 3


def test_a_killed_import_goes_on_and_applies_nothing_twice(cluster: Any, tmp_path: Path) -> None:
    """R23: the lines under way are sent again with the same ids; what another client wrote over them since stays."""
    file = write_lines(tmp_path / "in.jsonl", 20_000, pad=200)
    journal = Path(f"{file}.kvnode-import")
    importer = cluster.start("import", str(file))
    while not journal.exists() or json.loads(journal.read_text())["done"] == 0:
        assert importer.poll() is None
        time.sleep(0.01)
    importer.send_signal(signal.SIGKILL)
    importer.communicate()
    done = json.loads(journal.read_text())["done"]
    written_then = f"k{done - 1:06}", f"k{done:06}"  # done for sure, and under way or done
    for key in written_then:
        if cluster.kvnode("get", key, "--consistency", "strong").returncode == 0:
            cluster.kvnode("put", key, '"mine"', "--consistency", "strong")
    facts = report_of(cluster.kvnode("import", str(file), "--json"))
    assert facts["before"] == done > 0
    assert facts["complete"]
    assert facts["written"] == 20_000 - done
    for key in written_then:
        assert cluster.kvnode("get", key, "--consistency", "strong").stdout == '"mine"\n'


def test_lines_whose_ids_live_no_more_are_read_first_and_written_only_if_they_do_not_stand_there(
    cluster: Any, tmp_path: Path
) -> None:
    """R24: what was sent under an id past its deadline can take effect no more, so a read tells."""
    file = write_lines(tmp_path / "in.jsonl", 200)
    journal = Path(f"{file}.kvnode-import")
    assert cluster.kvnode("import", str(file)).returncode == 0
    facts = json.loads(journal.read_text())
    facts["done"], facts["finished"] = 50, False
    for base in facts["bases"]:
        session, sequence, issued_at, deadline = base["id"].split("/")
        base["id"] = f"{session}/{sequence}/{int(issued_at) - 3_600_000}/{int(deadline) - 3_600_000}"
    journal.write_text(json.dumps(facts))
    cluster.kvnode("delete", "k000100", "--consistency", "strong")
    report = report_of(cluster.kvnode("import", str(file), "--json"))
    assert (report["before"], report["unchanged"], report["written"]) == (50, 149, 1)
    assert json.loads(cluster.kvnode("get", "k000100").stdout)["n"] == 100


def test_an_interrupted_import_says_how_to_go_on(cluster: Any, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "in.jsonl", 20_000, pad=200)
    importer = cluster.start("import", str(file))
    while not Path(f"{file}.kvnode-import").exists():
        time.sleep(0.01)
    importer.send_signal(signal.SIGINT)
    _, said = importer.communicate(timeout=60)
    assert importer.returncode == 130
    assert "Traceback" not in said
    assert "again" in said


async def test_an_import_survives_the_death_of_a_node(cluster: Any, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "in.jsonl", 5000)
    importer = cluster.start("import", str(file), "--json")
    while not Path(f"{file}.kvnode-import").exists():
        time.sleep(0.01)
    cluster.tell("kill", "n2")
    out, said = importer.communicate(timeout=120)
    assert importer.returncode == 0, said
    assert json.loads(out)["written"] == 5000
    cluster.tell("restart", "n2")
    async with kvclient.connect(cluster.addresses) as kv:
        items = await kv.get_many([f"k{i:06}" for i in range(5000)], consistency="strong")
    assert [item.value["n"] for item in items.values() if isinstance(item, kvclient.Item)] == list(range(5000))


def test_an_import_without_a_majority_ends_with_counts_and_goes_on_later(cluster: Any, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "in.jsonl", 300)
    cluster.tell("kill", "n2")
    cluster.tell("kill", "n3")
    for _ in range(2):  # what was refused for certain may be given a new id by the next run: nobody sent that
        done = cluster.kvnode("import", str(file), "--timeout", "600", "--concurrency", "4", "--json")
        facts = report_of(done)
        assert (done.returncode, facts["refused"], facts["unknown"]) == (4, 4, 0)
        assert (facts["written"], facts["complete"]) == (0, False)
        assert facts["seconds"] < 60
        assert "going on after" not in done.stderr
        assert "operation id" not in done.stderr
    assert cluster.kvnode("import", str(file)).stdout.endswith("run the same command again to go on\n")
    cluster.tell("restart", "n2")
    facts = report_of(cluster.kvnode("import", str(file), "--json"))
    assert (facts["written"], facts["complete"]) == (300, True)


def test_the_last_line_of_a_key_wins(shared_cluster: Any, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text("".join(f'{{"key": "same", "value": {n}}}\n' for n in range(500)))
    assert shared_cluster.kvnode("import", str(file)).returncode == 0
    assert shared_cluster.kvnode("get", "same", "--consistency", "strong").stdout == "499\n"


BAD = """{"key": "good/1", "value": 1}
{"key": "bad"
{"key": "", "value": 1}
{"key": "bad", "value": NaN}
{"key": "bad"}
{"key": 5, "value": 1}
["bad"]
{"key": "bad", "base64": "!"}
{"key": "bad", "value": 1, "ttl": 5}
{"key": "good/2", "value": 2}
"""


def test_every_bad_line_is_named_and_left_out_with_keep_going(shared_cluster: Any, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(BAD)
    done = shared_cluster.kvnode("import", str(file), "--keep-going", "--json")
    facts = report_of(done)
    assert (done.returncode, facts["written"], facts["bad"], facts["complete"]) == (2, 2, 8, True)
    named = [int(number) for number in re.findall(r"line (\d+): ", done.stderr)]
    assert sorted(named) == [2, 3, 4, 5, 6, 7, 8, 9]
    again = shared_cluster.kvnode("import", str(file), "--keep-going", "--json")
    assert (again.returncode, report_of(again)["bad"]) == (2, 8)


def test_a_bad_line_stops_an_import_otherwise(shared_cluster: Any, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(BAD)
    done = shared_cluster.kvnode("import", str(file), "--concurrency", "1", "--json")
    facts = report_of(done)
    assert (done.returncode, facts["written"], facts["bad"], facts["complete"]) == (2, 1, 1, False)
    assert "line 2: " in done.stderr
    said = shared_cluster.kvnode("import", str(file), "--concurrency", "1", "--again").stdout
    assert said.startswith("1 line written to store 'default' in ")
    assert said.endswith("; 1 is bad; not complete: mend line 2, or use --keep-going\n")


def test_a_file_that_is_not_utf8_is_named_as_that(shared_cluster: Any, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_bytes('{"key": "utf16", "value": 1}'.encode("utf-16"))
    done = shared_cluster.kvnode("import", str(file))
    assert done.returncode == 2
    assert "line 1: not UTF-8" in done.stderr


@pytest.mark.parametrize("consistency", ["strong", "eventual"])
def test_stdin_is_imported_too(shared_cluster: Any, consistency: str) -> None:
    lines = b'{"key": "stdin/1", "value": 1}\n{"key": "stdin/2", "value": 2}'
    done = shared_cluster.kvnode("import", "-", "--json", "--consistency", consistency, stdin=lines)
    assert (done.returncode, report_of(done)["written"]) == (0, 2)
    assert shared_cluster.kvnode("get", "stdin/2", "--consistency", "strong").stdout == "2\n"


def test_stdin_from_a_file_leaves_no_journal_and_its_hints_fit(shared_cluster: Any, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"key": "stdin/3", "value": 3}\nbad\n')
    with file.open("rb") as stdin:
        done = subprocess.run(
            [sys.executable, "-m", "kvnode", "import", "-", "--data-dir", str(shared_cluster.directory)],
            stdin=stdin,
            capture_output=True,
            cwd=tmp_path,
            text=True,
            check=False,
        )
    assert (done.returncode, [path.name for path in tmp_path.iterdir()]) == (2, [file.name])
    assert "mend line 2, or use --keep-going" in done.stdout
    refused = shared_cluster.kvnode("import", "-", "--progress", str(tmp_path / "p"))
    assert refused.returncode == 2
    assert "--progress" in refused.stderr


def test_progress_made_in_another_cluster_does_not_count(
    shared_cluster: Any, new_cluster: Callable[..., Any], tmp_path: Path
) -> None:
    file = write_lines(tmp_path / "in.jsonl", 10, "else/")
    assert report_of(shared_cluster.kvnode("import", str(file), "--json"))["written"] == 10
    with new_cluster("other", nodes=1) as other:
        assert report_of(other.kvnode("import", str(file), "--json"))["written"] == 10


def test_a_file_that_is_not_there_or_cannot_be_noted_is_refused(shared_cluster: Any, tmp_path: Path) -> None:
    missing = shared_cluster.kvnode("import", str(tmp_path / "missing"))
    assert missing.returncode == 2
    assert "No such file" in missing.stderr
    file = write_lines(tmp_path / "in.jsonl", 1)
    unwritable = shared_cluster.kvnode("import", str(file), "--progress", str(file / "progress"))
    assert unwritable.returncode == 2
    assert "--progress" in unwritable.stderr
