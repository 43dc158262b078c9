"""A real worker with health checks: its weight follows them, and its status says why."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from forebay.cli.main import app
from forebay.testing.cluster import Cluster, eventually

pytestmark = [pytest.mark.slow]


def test_a_check_takes_the_worker_out_of_selection_and_back(tmp_path: Path) -> None:
    says, source = tmp_path / "says", tmp_path / "source"
    source.mkdir()
    says.write_text("0 the GPU is in use\n")
    check = f"exec:/bin/cat {says};period=0.1;deadline=0.1;fail=open"
    with Cluster.of_folder(source, extra={"worker": ("--health-checks", check)}) as cluster:

        def score() -> object:
            return cluster.status("worker-0")["detail"][f"health exec:/bin/cat {says}"]["score"]

        # when it says 0, then no one is to ask this worker
        eventually(lambda: score() == 0.0, what="the check's word")
        eventually(lambda: cluster.status("worker-0")["detail"]["serving_weight"] == 0.0, what="weight 0")
        assert cluster.status("worker-0")["detail"][f"health exec:/bin/cat {says}"]["reason"] == "the GPU is in use"
        # and 'forebay workers list' tells it
        told = CliRunner().invoke(app, ["workers", "list", "--registry", cluster.registry])
        assert re.search(r"worker-0 +exec:/bin/cat \S+ +0\.00 +the GPU is in use", told.stdout), told.output
        # and it goes on serving: readiness is another matter
        assert cluster.status("worker-0")["ready"]
        # when it says garbage, then it counts as configured
        says.write_text("what?\n")
        eventually(lambda: score() == 1.0, what="fail=open")
        eventually(lambda: cluster.status("worker-0")["detail"]["serving_weight"] > 0.0, what="the weight is back")
        metric = f'forebay_worker_health_score_ratio{{check="exec:/bin/cat {says}"}}'
        assert cluster.metrics("worker-0")[metric] == 1.0
