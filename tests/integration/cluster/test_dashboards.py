"""Alert rules and dashboards: promtool's own tests of the rules, and a real Prometheus that asks real services."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from forebay.testing.certificates import Authority, write_role_files
from forebay.testing.cluster import Cluster, eventually
from forebay.testing.tools import Process, free_ports

DEPLOY = Path(__file__).parents[3] / "deploy"
PROMTOOL = shutil.which("promtool", path=f"{os.environ.get('PATH', '')}:/usr/bin") or "promtool"
PROMETHEUS = PROMTOOL.replace("promtool", "prometheus")
METRIC = re.compile(r"\bforebay_[a-z0-9_]+")


def panels() -> dict[str, list[str]]:
    """What each panel of the dashboard asks for, by its title."""
    dashboard = orjson.loads((DEPLOY / "grafana" / "dashboards" / "forebay.json").read_bytes())
    return {panel["title"]: [target["expr"] for target in panel["targets"]] for panel in dashboard["panels"]}


def test_the_configuration_is_read_and_the_alert_rules_fire_when_they_should() -> None:
    config = ["check", "config", "--syntax-only", "prometheus.yml"]  # what it names is there in the container only
    for command in (config, ["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run(
            [PROMTOOL, *command], cwd=DEPLOY / "prometheus", capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_rules_and_panels_ask_for_metrics_that_services_have(tmp_path: Path) -> None:
    asked = [expr for exprs in panels().values() for expr in exprs]
    wanted = set(METRIC.findall("\n".join(asked) + "\n" + (DEPLOY / "prometheus" / "alerts.yml").read_text()))

    with Cluster.of_folder(tmp_path) as cluster:
        said = "".join(cluster.http(name, "/metrics").decode() for name in ("master", "worker-0"))

    assert len(wanted) > 10
    assert wanted - set(re.findall(r"^# TYPE (\S+)", said, re.MULTILINE)) == set()


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    port: int

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=20) as reply:
            answer = orjson.loads(reply.read())
        assert answer["status"] == "success", answer
        return answer["data"]

    def numbers(self, expression: str) -> list[float]:
        """What an expression gives now; a share of nothing is left out."""
        values = [float(result["value"][1]) for result in self.ask("query", query=expression)["result"]]
        return [value for value in values if not math.isnan(value)]

    def health(self) -> dict[str, str]:
        """What went wrong at each target; nothing where all is well."""
        found = self.ask("targets")["activeTargets"]
        return {t["scrapeUrl"]: t["lastError"] if t["health"] == "up" else t["lastError"] or "not yet" for t in found}


def config_for(cluster: Cluster, certificates: Path) -> dict[str, Any]:
    """Ours, with other addresses and files, and more often."""
    config: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / "prometheus" / "alerts.yml")]
    places = {"forebay": ("master", "gateway"), "forebay-worker": ("worker-0",)}
    files = {"ca_file": "ca.pem", "cert_file": "client.pem", "key_file": "client.pem"}
    for job in config["scrape_configs"]:
        assert job["scheme"] == "https"
        job["tls_config"] |= {name: str(certificates / file) for name, file in files.items()}
        if "server_name" in job["tls_config"]:
            job["tls_config"]["server_name"] = "localhost"
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [cluster.local.address(name) for name in places[job["job_name"]]]}]
    return config


def is_ready(port: int) -> bool:
    """Whether it has read what it stored and answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@contextmanager
def prometheus(folder: Path, config: dict[str, Any]) -> Iterator[Prometheus]:
    """Starts Prometheus itself with this configuration."""
    folder.mkdir()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    flags = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    server = Process([PROMETHEUS, *flags, f"--web.listen-address=127.0.0.1:{port}"], folder=folder)
    try:
        server.wait_ready(lambda: is_ready(port), 60)
        yield Prometheus(port)
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.fuse
def test_a_real_prometheus_scrapes_all_services_under_tls_and_answers_every_panel(tmp_path: Path) -> None:
    source, certificates = tmp_path / "source", tmp_path / "certificates"
    source.mkdir()
    certificates.mkdir()
    (source / "file").write_bytes(os.urandom(3 << 20))
    write_role_files(certificates, Authority())
    extra = {"worker": ("--health-checks", "exec:/bin/echo 0.7 well;period=1;deadline=1")}
    how: dict[str, Any] = {"mounts": 1, "short_circuit": False, "tls_dir": certificates, "extra": extra}
    with (
        Cluster.of_folder(source, **how) as cluster,
        prometheus(tmp_path / "prometheus", config_for(cluster, certificates)) as found,
    ):
        eventually(lambda: set(found.health().values()) == {""}, what=f"scrapes: {found.health()}", timeout_s=40)
        assert len(found.health()) == 3

        def unanswered() -> list[str]:
            # reads in every interval, of the worker: the kernel's pages are dropped
            Path("/proc/sys/vm/drop_caches").write_text("1")
            (cluster.mount / "file").read_bytes()
            asked = {title: [e.replace("$__rate_interval", "20s") for e in exprs] for title, exprs in panels().items()}
            return [title for title, exprs in asked.items() for e in exprs if not found.numbers(e)]

        eventually(lambda: not unanswered(), what="an answer to every panel", timeout_s=40)
        (ratio,) = found.numbers(panels()["Hit ratio"][0].replace("$__rate_interval", "60s"))
        assert 0 <= ratio <= 1
        # and the rules are evaluated and quiet
        rules = [rule for group in found.ask("rules")["groups"] for rule in group["rules"]]
        assert len(rules) == (DEPLOY / "prometheus" / "alerts.yml").read_text().count("- alert:")
        eventually(
            lambda: {r["health"] for g in found.ask("rules")["groups"] for r in g["rules"]} == {"ok"}, what="the rules"
        )
        assert not [alert for alert in found.ask("alerts")["alerts"] if alert["state"] == "firing"]
