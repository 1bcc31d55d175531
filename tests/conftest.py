"""Property tests give the same verdict in every run; tests that patch the product are left out where it is compiled."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from kvnode import is_compiled

settings.register_profile("ci", derandomize=True, deadline=None, database=None)
"""Examples are derived from the test, not from the time."""
settings.register_profile("explore", deadline=None, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what replaces compiled code (`hatch_build.py`)."""
    if is_compiled():
        for item in items:
            if item.get_closest_marker("patches"):
                item.add_marker(pytest.mark.skip(reason="replaces parts of the product, which is compiled here"))
