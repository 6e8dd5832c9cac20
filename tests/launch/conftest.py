"""Fixtures of the tests that start real launchers."""

from tests.fixtures import small_store
from tests.launch.hosts import hosts

__all__ = ["hosts", "small_store"]
