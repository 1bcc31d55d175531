"""Core: every decision of the protocol, as pure functions and small state machines.

A module here imports nothing that has a clock, randomness, a loop, a socket or a file: time and random numbers arrive
as arguments, effects leave as return values.  That is what lets a simulation run whole clusters from one seed and a
reader check a rule against docs/protocol.md without thinking about I/O.
"""
