"""The scripts that readers copy do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_kill_node_kills_a_node_under_load_and_finds_nothing_lost() -> None:
    done = subprocess.run([sys.executable, SCRIPTS / "kill_node.py"], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["n2: kill", "n2: restart", "1000 writes were acknowledged, 0 are lost"]
    assert (done.returncode, done.stderr) == (0, "")


def test_the_demo_refuses_arguments_instead_of_running_all_the_same() -> None:
    done = subprocess.run([SCRIPTS / "demo", "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "takes no arguments" in done.stderr


def test_chaos_lists_its_faults_and_refuses_others() -> None:
    def chaos(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, SCRIPTS / "chaos.py", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    listed = chaos("--list")
    assert listed.returncode == 0
    assert "kill-one" in listed.stdout
    refused = chaos("--faults", "kill-one,plague")
    assert refused.returncode == 2
    assert 'there is no fault "plague"; there are kill-one,' in refused.stderr
