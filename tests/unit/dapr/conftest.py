"""The gateway's tests talk to a scripted cluster."""

from scripted import cluster, kv, make_cluster

__all__ = ["cluster", "kv", "make_cluster"]
