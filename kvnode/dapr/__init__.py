"""Dapr's state API for programs in any language: HTTP, gRPC, and a pluggable component.  A client of the cluster only.

Read `state` for what an operation means, `errors` for what a caller is told when it fails, `http`, `grpc` and
`component` for how it arrives.  Nothing here knows a node; everything goes through `kvclient`.
"""
