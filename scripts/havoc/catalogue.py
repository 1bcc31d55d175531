"""All nemeses, by name.

Decides: nothing.  Leaves to others: the nemeses (`nemeses`, `nemeses_of_disks`), which enter themselves.
"""

from __future__ import annotations

from scripts.havoc import nemeses, nemeses_of_disks
from scripts.havoc.attack import NEMESES

__all__ = ["NEMESES", "nemeses", "nemeses_of_disks"]
