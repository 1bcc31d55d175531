"""The client's only source of randomness, so that a test can put a seeded one in its place.

Decides: nothing.  Call its functions through the module (`chance.fraction()`): whoever replaces them there is heard.
"""

from __future__ import annotations

import os
import random


def fraction() -> float:
    """Return a random number in [0, 1), to spread what many clients would otherwise do at once."""
    return random.random()


def some_bytes(count: int) -> bytes:
    """Return `count` random bytes that no other client will draw."""
    return os.urandom(count)
