"""Runs of kills that are told as one."""

from __future__ import annotations

from typing import Any

import pytest

from bench.gateway_killed import together


def part(run_s: float, kills: int, every_s: float = 10.0) -> dict[str, Any]:
    reader = {"files": 3, "bytes": 5, "wrong": 0, "errors": [f"of {kills}"], "pauses_s": [kills / 10]}
    return {"kills": kills, "readers": [reader], "run_s": run_s, "every_s": every_s}


def test_parts_add_up_and_say_that_they_are_parts() -> None:
    found = together([part(150.0, 14), part(120.0, 11)])
    assert (found["kills"], found["run_s"], found["parts_s"]) == (25, 270.0, [150.0, 120.0])
    assert [reader["errors"] for reader in found["readers"]] == [["of 14"], ["of 11"]]


def test_runs_of_different_kinds_are_not_added_up() -> None:
    with pytest.raises(ValueError, match="different times"):
        together([part(150.0, 14), part(12.0, 4, every_s=3.0)])
