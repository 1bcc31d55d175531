"""The wire format: bytes <-> messages, versioned, without I/O.  Client and node both speak it, so it lives once."""
