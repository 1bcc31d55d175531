"""Storage: one node's durable rows and the directory that they live in (R1, R45-R48).

`engine` is the contract that other rooms know; `rocks` keeps it with RocksDB, `memory` models it for tests and
simulation; `rows` is the format of a row; `directory` says whose data it is.  This room knows core's values and
nothing of messages, peers or decisions.  The only threads of a node are here (in `rocks`), and every callback runs on
the event loop.
"""
