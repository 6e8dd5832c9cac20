"""Fixtures of the single-process tests."""

from tests.fixtures import small_store

__all__ = ["small_store"]
