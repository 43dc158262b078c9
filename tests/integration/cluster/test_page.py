"""The master's page in a real browser."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import orjson
import pytest

from forebay.client import SyncClient
from forebay.contracts import decode
from forebay.contracts.overview import OverviewReply
from forebay.testing.cluster import Cluster, eventually

pytestmark = [pytest.mark.slow]
CHROMIUM = (
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--window-size=1200,1100",
    "--virtual-time-budget=4000",
)


def browse(profile: Path, url: str, *flags: str) -> str:
    """The page as the browser has it after its scripts ran for some seconds."""
    command = [*CHROMIUM, f"--user-data-dir={profile}", *flags, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=True).stdout


def text_of(html: str, element_id: str) -> str:
    """The text of an element and of what lies in it."""
    match = re.search(rf'<(\w+)[^>]*\bid="{element_id}"[^>]*>(.*?)</\1>', html, re.DOTALL)
    assert match is not None, element_id
    return re.sub(r"<[^>]*>", " ", match[2])


def overview(cluster: Cluster) -> OverviewReply:
    return decode(OverviewReply, cluster.http("master", "/v1/overview"))


def test_the_page_shows_the_cluster_as_it_is_and_as_it_becomes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "part").write_bytes(os.urandom(5 << 20))
    with Cluster.of_folder(source, workers=2) as cluster:
        eventually(lambda: all(w.age_s is not None for w in overview(cluster).workers), what="answers of both workers")
        with SyncClient(cluster.client_options(short_circuit_dirs=())) as client:
            for _ in range(3):
                with client.open("/part") as reader:
                    reader.read(0, 5 << 20)
        eventually(
            lambda: (
                sum(sample.mem + sample.ufs for sample in overview(cluster).samples) > 1
                and overview(cluster).mounts[0].held_bytes >= 5 << 20
            ),
            what="reads and bytes in the overview",
        )
        base = f"http://{cluster.local.address('master')}/"

        html = browse(tmp_path / "profile", base, "--dump-dom")

        assert text_of(html, "state").startswith("live")
        assert "2 workers" in text_of(html, "cluster")
        for name in ("worker-0", "worker-1", "MEM 0 B of 256 MiB (0 %)", "MEM 5.0 MiB of 256 MiB (2.0 %)"):
            assert name in html
        assert f"file://{source}" in text_of(html, "mounts")
        assert "found their bytes in the cluster" in text_of(html, "ratio")
        assert "<rect" in html
        assert "worker" not in text_of(html, "slow").replace("All workers are well.", "")
        # when a worker dies, then the page says so
        cluster.kill("worker-1")
        eventually(
            lambda: any("down" in " ".join(worker.slow_because) for worker in overview(cluster).workers),
            what="the worker is down",
            timeout_s=40,
        )
        html = browse(tmp_path / "profile", base, "--dump-dom")
        assert "worker-1: it is down" in text_of(html, "slow")
        shots = os.environ.get("SCREENSHOTS")
        if shots:
            browse(tmp_path / "profile", base, f"--screenshot={shots}/light.png")
            browse(tmp_path / "profile", base, "--force-dark-mode", f"--screenshot={shots}/dark.png")


def test_the_page_asks_nobody_else_and_its_overview_is_plain_json(tmp_path: Path) -> None:
    with Cluster.of_folder(tmp_path) as cluster:
        files = {path: cluster.http("master", path).decode() for path in ("/", "/page/page.js", "/page/page.css")}

        assert not [
            url for text in files.values() for url in re.findall(r"https?://(?!www\.w3\.org/2000/svg)\S+", text)
        ]
        assert orjson.loads(cluster.http("master", "/v1/overview"))["cluster_id"] == "forebay"
