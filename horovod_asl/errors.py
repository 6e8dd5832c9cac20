"""The one exception that stands for a user's mistake: shown as a single line with its remedy, never a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input, a wrong flag, a missing file: the message names the fault and what to do about it."""
