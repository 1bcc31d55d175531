"""A cluster on this machine: `plan` says what to start, `supervisor` runs one process per node, `statefile` is how
others find and steer it, `detached` starts and stops a supervisor in a session of its own."""
