"""Dapr's messages as Python classes: `common.proto`, `runtime.proto`, `components.proto` and what is generated of them.

Decides: that they live in a descriptor pool of their own (`pool.POOL`).  Dapr's SDK registers the same names in the
default pool of the process, which takes each name once; so both can be imported into one process.
`scripts/generate_protos.py` makes `*_pb2.py` and `*_pb2.pyi` anew.
"""
