"""These tests run real clusters."""

from processes import cluster, command, new_cluster, own_packages, shared_cluster

__all__ = ["cluster", "command", "new_cluster", "own_packages", "shared_cluster"]
