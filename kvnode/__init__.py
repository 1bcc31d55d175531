"""kvnode: one node of a replicated key-value store, and the tools that run a cluster of them.

Decides nothing itself; see ARCHITECTURE.md for the rooms and docs/protocol.md for the rules that the code cites
(R1-R64).
"""

__version__ = "0.1.0"
