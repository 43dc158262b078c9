"""The profiles ``metrics`` and ``traces`` of the compose file: what their configurations name is there.

Images of Grafana, the collector and Jaeger are not to be had by tests; Prometheus itself is run by
``tests/integration/cluster/test_dashboards.py`` and ``make compose-test``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose" / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
GRAFANA = ROOT / "deploy" / "grafana"
SIGNALS = {"traces", "metrics"}
"""What our services export once they have an endpoint (``forebay.telemetry.export``)."""


def mounted(service: str) -> dict[str, Path]:
    """Where a service sees which file or folder of the checkout."""
    pairs = (volume.split(":") for volume in SERVICES[service]["volumes"])
    return {parts[1]: (ROOT / "compose" / parts[0]).resolve() for parts in pairs if parts[0].startswith(".")}


def test_the_collector_takes_what_services_send_and_gives_traces_to_jaeger() -> None:
    (place, file) = next(iter(mounted("collector").items()))
    assert SERVICES["collector"]["command"] == [f"--config={place}"]
    config = yaml.safe_load(file.read_text())
    pipelines = config["service"]["pipelines"]

    # a signal without a pipeline would be refused at each export
    assert set(pipelines) == SIGNALS
    # a component that is named and not set, or set and not named, ends the collector or does nothing
    for kind in ("receivers", "processors", "exporters"):
        named = {name for pipeline in pipelines.values() for name in pipeline.get(kind, [])}
        assert named == set(config[kind]), kind
    (exporter,) = pipelines["traces"]["exporters"]
    host, _, port = config["exporters"][exporter]["endpoint"].partition(":")
    assert (host, port) == ("jaeger", "4317")
    assert SERVICES[host]["profiles"] == SERVICES["collector"]["profiles"] == ["traces"]


def test_the_endpoint_that_the_readme_sets_is_where_the_collector_listens() -> None:
    config = yaml.safe_load((ROOT / "compose" / "collector.yaml").read_text())
    listens = config["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    for file in (ROOT / "README.md", ROOT / "compose" / ".env"):
        (url,) = set(re.findall(r"FOREBAY_OTLP_ENDPOINT=(http\S+)", file.read_text()))
        assert urlsplit(url).hostname in SERVICES
        assert urlsplit(url).netloc == f"collector:{listens.rpartition(':')[2]}"


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    seen = mounted("grafana")
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/forebay.yaml").read_text())["providers"]
    dashboards = [orjson.loads(file.read_bytes()) for file in seen[provider["options"]["path"]].glob("*.json")]

    assert seen["/etc/grafana/provisioning"] == GRAFANA / "provisioning"
    assert urlsplit(source["url"]).hostname in SERVICES
    assert len(dashboards) == 1
    used = {panel["datasource"]["uid"] for dashboard in dashboards for panel in dashboard["panels"]}
    assert used == {source["uid"]}


def test_prometheus_scrapes_every_service_at_the_port_it_listens_on() -> None:
    seen = mounted("prometheus")
    config = yaml.safe_load((seen["/etc/prometheus"] / "prometheus.yml").read_text())
    targets = {t for job in config["scrape_configs"] for s in job.get("static_configs", []) for t in s["targets"]}
    workers = [found for job in config["scrape_configs"] for found in job.get("dns_sd_configs", [])]

    assert targets == {
        "master-1:7070",
        "master-2:7070",
        f"gateway:{SERVICES['gateway']['environment']['FOREBAY_FUSE_PORT']}",
    }
    assert [(d["names"], d["port"]) for d in workers] == [
        (["worker"], SERVICES["worker"]["environment"]["FOREBAY_WORKER_PORT"])
    ]
    for file in config["rule_files"]:
        assert (seen["/etc/prometheus"] / Path(file).name).is_file()
