"""kvnode: one node of a replicated key-value store, and the tools that run a cluster of them.

Decides nothing itself; see ARCHITECTURE.md for the rooms and docs/protocol.md for the rules that the code cites
(R1-R64).
"""

from importlib.util import find_spec

__version__ = "0.1.0"


def is_compiled() -> bool:
    """Return whether the busiest modules run compiled (`hatch_build.py`), not as Python."""
    spec = find_spec("kvnode.core.register")
    return spec is not None and not str(spec.origin).endswith(".py")
