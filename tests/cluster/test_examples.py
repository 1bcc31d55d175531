"""The programs that the documents show run, and run a second time on what the first run left."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import kvclient

README = Path(__file__).parents[2] / "README.md"


def programs() -> list[str]:
    (shown,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    _, _, rest = (kvclient.__doc__ or "").partition("A complete program::\n")
    return [shown, dedent(rest[: rest.index("asyncio.run(main())") + len("asyncio.run(main())")])]


@pytest.mark.parametrize("program", programs(), ids=["README", "kvclient"])
def test_an_example_runs_twice(shared_cluster: Any, program: str) -> None:
    assert "127.0.0.1:7401" in program
    program = program.replace("127.0.0.1:7401", shared_cluster.addresses[0])
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    assert "it exists already" in done.stdout
