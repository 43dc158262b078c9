"""The chart, by Helm's own library and the API's schemas; Dockerfiles and the compose file, by their own tools."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest

from forebay.testing.tools import tools_dir

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "forebay"
EXAMPLES = sorted((ROOT / "deploy" / "helm" / "examples").glob("*.yaml"))
VALUES: dict[str, dict[str, Any]] = {
    "default": {"ufsRoots": ["s3://b/p"], "mounts": ["/=s3://b/p"]},
    "stateful": {
        "worker": {"kind": "StatefulSet", "ssd": {"claimSize": "100Gi", "storageClass": "fast"}},
        "secrets": {"aws": "s3-keys"},
    },
    "outside": {
        "zookeeper": {"hosts": "zk-0:2181,zk-1:2181", "bundled": False},
        "worker": {"ssd": {"hostPath": "/data/ssd", "size": "1TiB"}},
        "telemetry": {"otlpEndpoint": "http://c:4318", "traceRatio": 0.01},
    },
    "small": {"master": {"replicas": 1}, "gateway": {"enabled": False}, "networkPolicy": False},
}


def tool(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"FOREBAY_SECRETS": str(ROOT)}
    return subprocess.run(
        [str(tools_dir() / "parts" / "bin" / command[0]), *command[1:]],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def rendered(folder: Path, values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    file = folder / "values.json"
    file.write_bytes(orjson.dumps(values))
    examples = map(str, EXAMPLES)
    return tool("python", str(Path(__file__).with_name("render.py")), str(CHART), str(file), "forebay", *examples)


@pytest.mark.parametrize("name", VALUES)
def test_every_object_of_the_chart_is_valid(tmp_path: Path, name: str) -> None:
    done = rendered(tmp_path, VALUES[name])

    assert done.returncode == 0, done.stderr
    kinds = [(found["kind"], found["metadata"]["name"]) for found in orjson.loads(done.stdout)]
    assert ("StatefulSet", "forebay-master") in kinds
    assert ("CronJob", "forebay-load") in kinds
    assert (("DaemonSet", "forebay-keeper") in kinds) == (name != "small")
    assert (("StatefulSet", "forebay-worker") in kinds) == (name == "stateful")
    assert (("StatefulSet", "forebay-zookeeper") in kinds) == (name != "outside")


@pytest.mark.parametrize(
    "values",
    [
        {"workers": 3},
        {"worker": {"kind": "Deployment"}},
        {"telemetry": {"traceRatio": 2}},
        {"worker": {"ssd": {"claimSize": "1Gi"}}},
        {"zookeeper": {"bundled": False}},
        {"gateway": {"onStop": "stay"}},
    ],
)
def test_values_that_cannot_work_are_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    done = rendered(tmp_path, values)

    assert done.returncode != 0
    assert "Error" in done.stderr


@pytest.mark.parametrize("on_stop", ["unmount", "leave"])
def test_a_gateway_that_stops_unmounts_or_leaves_its_mount_as_the_values_say(tmp_path: Path, on_stop: str) -> None:
    done = rendered(tmp_path, VALUES["default"] | {"gateway": {"onStop": on_stop}})

    assert done.returncode == 0, done.stderr
    by_name = {(found["kind"], found["metadata"]["name"]): found for found in orjson.loads(done.stdout)}
    gateway = by_name["DaemonSet", "forebay-gateway"]
    (container,) = gateway["spec"]["template"]["spec"]["containers"]
    assert {"name": "FOREBAY_FUSE_ON_STOP", "value": on_stop} in container["env"]
    assert ("lifecycle" in container) == (on_stop == "unmount")


def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Metadata and spec of every pod that the objects bring, by the object's name."""
    found = {}
    for item in (one for one in objects if "spec" in one):
        pod = item
        while "template" in pod["spec"] or "jobTemplate" in pod["spec"]:
            pod = pod["spec"].get("template") or pod["spec"]["jobTemplate"]
        if "containers" in pod["spec"]:
            found[item["metadata"]["name"]] = pod
    return found


def test_whoever_is_told_to_ask_the_bundled_zookeeper_is_let_to_it(tmp_path: Path) -> None:
    objects = orjson.loads(rendered(tmp_path, VALUES["default"]).stdout)
    (policy,) = [o for o in objects if (o["kind"], o["metadata"]["name"]) == ("NetworkPolicy", "forebay-zookeeper")]
    allowed = policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]

    asking = {}
    for name, pod in pods(objects).items():
        containers = [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]
        values = [str(variable.get("value")) for c in containers for variable in c.get("env", [])]
        if any(value.startswith("zookeeper://forebay-zookeeper:") for value in values):
            asking[name] = pod["metadata"].get("labels", {})

    assert {"forebay-master", "forebay-worker", "forebay-gateway", "forebay-load", "reader-with-sidecar"} == set(asking)
    assert not [name for name, labels in asking.items() if not allowed.items() <= labels.items()]


def test_dockerfiles_have_no_lint_and_compose_v2_reads_the_file() -> None:
    files = [*ROOT.glob("services/*/Dockerfile"), *ROOT.glob("compose/*/*.Dockerfile")]
    assert len(files) == 6

    linted = tool("hadolint", *map(str, files))
    profiles = ["--profile", "metrics", "--profile", "traces", "--profile", "reader"]
    read = tool("docker-compose", *profiles, "config", "-q", cwd=ROOT / "compose")

    assert (linted.returncode, linted.stdout) == (0, "")
    assert read.returncode == 0, read.stderr
