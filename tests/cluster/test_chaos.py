"""`scripts/chaos.py` finds what it looks for: a cluster that does not heal is told apart from one that does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHAOS = HERE.parents[1] / "scripts" / "chaos.py"


def chaos(*arguments: str, planted: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run chaos, with nodes that import what is planted."""
    places = [*([str(planted)] if planted else []), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    command = [sys.executable, CHAOS, "--seconds", "20", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=180)


@pytest.mark.slow
@pytest.mark.patches
def test_replicas_that_do_not_heal_by_themselves_are_a_violation() -> None:
    """R32: reads would hide it, so they come afterwards."""
    done = chaos("--seed", "3", "--faults", "kill-one", "--heal-within", "3", planted=HERE / "unhealed")
    assert done.returncode == 1, done.stdout + done.stderr
    held = r"n1 holds .+; n2 holds .+; n3 holds .+"
    violation = rf"VIOLATION agreement: \S+: after the last fault its replicas do not agree by themselves: {held}\n"
    assert re.search(violation + r"  at \d+\.\d+ s  process", done.stdout), done.stdout
