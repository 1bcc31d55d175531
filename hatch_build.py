"""Compiles the busiest modules to C when a wheel is built with `KVNODE_COMPILE=1`; otherwise the wheel is pure Python.

Decides: which modules are compiled, and where the results lie in the wheel.  Leaves to mypyc: how.  The source stays
the one truth: a compiled module does what its Python file does, about twice as fast, and CI runs the tests against
both.  An editable install is never compiled, so what is edited is what runs.

Needs a C compiler.  `mypy` and `setuptools` are build dependencies only while the switch is on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent

COMPILED = (
    "client/kvclient/wire/frames.py",
    "client/kvclient/wire/messages.py",
    "client/kvclient/wire/values.py",
    "client/kvclient/connection.py",
    "kvnode/core/*.py",
    "kvnode/net/connection.py",
    "kvnode/node.py",
    "kvnode/runtime.py",
    "kvnode/service/*.py",
    "kvnode/service/healing/*.py",
    "kvnode/storage/groups.py",
    "kvnode/storage/rows.py",
)
"""What a request passes through in a node, and what the client does per message.  The rest of the client stays Python:
users subclass, patch and pickle it, and mypyc drops the cause of an exception (`raise ... from`)."""


class CompileHook(BuildHookInterface[Any]):
    """Adds compiled modules to the wheel."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Return what the build needs beside the build backend."""
        return ["mypy>=1.15", "setuptools>=77"] if _is_wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and tell the builder where the results are.  `version` is "standard" or "editable"."""
        if version == "editable" or not _is_wanted():
            return
        self._scratch = Path(tempfile.mkdtemp(prefix="kvnode-compile."))
        subprocess.run([sys.executable, __file__, str(self._scratch)], cwd=ROOT, check=True)
        library = self._scratch / "library"
        for module in sorted(library.rglob("*.so")) + sorted(library.rglob("*.pyd")):
            build_data["force_include"][str(module)] = str(module.relative_to(library))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was left over."""
        if hasattr(self, "_scratch"):
            shutil.rmtree(self._scratch)


def _is_wanted() -> bool:
    wanted = os.environ.get("KVNODE_COMPILE", "0")
    if wanted not in ("0", "1"):
        raise SystemExit(f"KVNODE_COMPILE is {wanted!r}; 1 compiles the wheel, 0 leaves it pure Python")
    return wanted == "1"


def compile_to(scratch: Path) -> None:
    """Compile the modules of `COMPILED` into `scratch`/library.  In a process of its own: mypyc keeps global state."""
    from mypyc.build import mypycify
    from setuptools import Distribution  # type: ignore[import-untyped]
    from setuptools.command.build_ext import build_ext  # type: ignore[import-untyped]

    os.environ["MYPYPATH"] = "client"
    sources = [str(path.relative_to(ROOT)) for pattern in COMPILED for path in sorted(ROOT.glob(pattern))]
    options = ["--ignore-missing-imports", "--no-warn-unused-ignores", "--explicit-package-bases"]
    extensions = mypycify([*options, *sources], opt_level="3", debug_level="0", target_dir=str(scratch / "c"))
    command = build_ext(Distribution({"name": "kvnode", "ext_modules": extensions}))
    command.build_lib, command.build_temp = str(scratch / "library"), str(scratch / "objects")
    command.ensure_finalized()
    command.run()


if __name__ == "__main__":
    compile_to(Path(sys.argv[1]))
