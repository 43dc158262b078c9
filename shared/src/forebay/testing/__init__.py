"""Fakes, real third-party servers and small helpers for tests. Nothing but tests imports this package."""

from forebay.testing.aio import run

__all__ = ["run"]
