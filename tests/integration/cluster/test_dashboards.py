"""Alert rules and dashboards: promtool's own tests of the rules, and metrics that services really have."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import orjson
import pytest

from forebay.testing.cluster import Cluster

DEPLOY = Path(__file__).parents[3] / "deploy"
PROMTOOL = shutil.which("promtool", path=f"{os.environ.get('PATH', '')}:/usr/bin") or "promtool"
METRIC = re.compile(r"\bforebay_[a-z0-9_]+")


def test_the_alert_rules_fire_when_they_should() -> None:
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run(
            [PROMTOOL, *command], cwd=DEPLOY / "prometheus", capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_rules_and_panels_ask_for_metrics_that_services_have(tmp_path: Path) -> None:
    dashboard = orjson.loads((DEPLOY / "grafana" / "dashboards" / "forebay.json").read_bytes())
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    wanted = set(METRIC.findall("\n".join(panels) + "\n" + (DEPLOY / "prometheus" / "alerts.yml").read_text()))

    with Cluster.of_folder(tmp_path) as cluster:
        said = "".join(cluster.http(name, "/metrics").decode() for name in ("master", "worker-0"))

    assert len(wanted) > 10
    assert wanted - set(re.findall(r"^# TYPE (\S+)", said, re.MULTILINE)) == set()
