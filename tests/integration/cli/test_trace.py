"""``forebay trace`` at a cluster of real processes over S3: by the SDK, and through the kernel."""

from __future__ import annotations

import os
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from forebay.cli.main import app
from forebay.testing.cluster import Cluster
from forebay.testing.s3 import S3Server
from tests.integration.cluster.kit import BLOCK_BYTES, fill_bucket, s3_cluster

pytestmark = [pytest.mark.slow, pytest.mark.fuse]

SIZE = BLOCK_BYTES + 3_000_000


def traced(cluster: Cluster, path: str) -> dict[str, Any]:
    """What the command says of a read."""
    ended = CliRunner().invoke(app, ["trace", path, "--json", "--registry", cluster.registry])
    assert ended.exit_code == 0, (ended.output, ended.exception)
    found: dict[str, Any] = orjson.loads(ended.stdout)
    assert found["silent"] == []
    assert sum(share["seconds"] for share in found["shares"]) == pytest.approx(found["took_s"], rel=0.01)
    return found


def services_above(found: dict[str, Any], span: dict[str, Any]) -> list[str]:
    """Whose spans lie above this one, the nearest first."""
    by_id, services = {s["span_id"]: s for s in found["spans"]}, []
    while span["parent_id"]:
        span = by_id[span["parent_id"]]
        services.append(span["service"])
    return services


def test_a_cold_read_is_one_tree_from_the_reader_to_the_s3_get_and_a_warm_one_has_no_get(s3_server: S3Server) -> None:
    bucket = fill_bucket(s3_server, {"a": os.urandom(SIZE), "b": os.urandom(SIZE)})
    with s3_cluster(s3_server, bucket, short_circuit=False) as cluster:
        cold, warm = traced(cluster, "/a"), traced(cluster, "/a")
        mounted = traced(cluster, str(cluster.mount / "b"))
        missing = CliRunner().invoke(app, ["trace", "/no", "--registry", cluster.registry])
        drawn = CliRunner().invoke(app, ["trace", "/b", "--registry", cluster.registry])

    gets = [s for s in cold["spans"] if s["name"] == "ufs read"]
    assert gets
    assert all(s["attributes"]["http.response.status_code"] in {200, 206} for s in gets)
    assert all(services_above(cold, s)[0] == "forebay-worker" for s in gets)
    assert all(services_above(cold, s)[-1] == "forebay-cli" for s in gets)
    masters = [s for s in cold["spans"] if s["service"] == "forebay-master"]
    assert any(s["name"] == "S3.HeadObject" and s["attributes"]["rpc.service"] == "S3" for s in masters)
    assert cold["bytes"] == SIZE
    assert any("under store" in line for line in cold["said"])

    assert not [s for s in warm["spans"] if s["name"] == "ufs read"]
    assert {s["service"] for s in warm["spans"]} >= {"forebay-cli", "forebay-worker"}

    above = [services_above(mounted, s) for s in mounted["spans"] if s["name"] == "ufs read"]
    assert above
    assert all(found[0] == "forebay-worker" and found[-2:] == ["forebay-fuse", "forebay-cli"] for found in above)
    assert {"fuse.open", "fuse.read"} <= {s["name"] for s in mounted["spans"]}

    assert missing.exit_code == 1
    assert "forebay ls" in missing.stderr
    assert drawn.exit_code == 0
    assert "GET /v1/blocks/{block_id}" in drawn.stdout
    assert f"{SIZE / 2**20:.1f} MiB in" in drawn.stdout


def test_a_cluster_that_is_not_there_is_said_in_a_sentence() -> None:
    away = CliRunner().invoke(app, ["trace", "/no", "--registry", "http://127.0.0.1:1"])

    assert away.exit_code == 3
    assert "127.0.0.1:1" in away.stderr
