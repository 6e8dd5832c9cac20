"""Fixtures of the multi-process tests."""

from tests.fixtures import small_store

__all__ = ["small_store"]
