"""The doctor's verdicts: each switch as it works, as it is off, and broken on purpose."""

from __future__ import annotations

import pytest

from forebay.cli.doctor import judges
from forebay.cli.doctor.cluster_probes import by_version
from forebay.cli.doctor.findings import Finding, Verdict, is_sound
from forebay.cli.doctor.judges import Counted, Entered, ProbeFile
from forebay.cli.doctor.mount_probes import difference, parse

ON = {
    "short_circuit": "file",
    "short_circuit_dirs": "/dev/shm/x",
    "kernel_cache": True,
    "direct_io": False,
    "passthrough": True,
    "metadata_cache_s": 10.0,
    "entry_timeout": 3600.0,
    "read_ahead_kib": 4096,
    "threads": 0,
}
FILE = ProbeFile("/m/a", 1000, 1, 1)
FAR = ProbeFile("/m/a", 1000, 0, 1)
PASSED = Counted(opens_by={"passthrough": 1.0})
LOCAL = Counted(bytes_by={"local": 1000.0})
REMOTE = Counted(bytes_by={"mem": 1000.0})
ASKED = Counted(requests={"read": 3.0})
HOMES = frozenset({"w1", "w2"})
NEW, OLD = (6, 12), (6, 1)

CASES: list[tuple[Finding, Verdict, str]] = [
    (judges.short_circuit(ON, FILE, PASSED), "ok", "passed through"),
    (judges.short_circuit(ON, FILE, LOCAL), "ok", "read in place"),
    (judges.short_circuit(ON, FAR, REMOTE), "no effect", "0 of 1 blocks"),
    (judges.short_circuit({**ON, "short_circuit_dirs": ""}, FAR, REMOTE), "no effect", "names no tier directory"),
    (judges.short_circuit({**ON, "short_circuit": "off"}, FAR, REMOTE), "not set", "network"),
    (judges.short_circuit({**ON, "short_circuit": "uds"}, FAR, Counted(socket_reads=2)), "ok", "Unix socket"),
    (judges.short_circuit({**ON, "short_circuit": "uds"}, FAR, REMOTE), "no effect", "no read used a Unix socket"),
    (judges.kernel_cache(ON, Counted()), "ok", "page cache"),
    (judges.kernel_cache(ON, PASSED), "ok", "passed through"),
    (judges.kernel_cache(ON, ASKED), "no effect", "3 requests"),
    (judges.kernel_cache({**ON, "kernel_cache": False}, ASKED), "not set", "3 requests"),
    (judges.kernel_cache({**ON, "direct_io": True}, ASKED), "not set", "direct_io"),
    (judges.direct_io({**ON, "direct_io": True}, ASKED), "ok", "3 requests"),
    (judges.direct_io({**ON, "direct_io": True}, Counted()), "no effect", "no request"),
    (judges.direct_io(ON, Counted()), "not set", "page cache"),
    (judges.passthrough(ON, FILE, PASSED, NEW, 0), "ok", "itself"),
    (judges.passthrough(ON, FILE, LOCAL, OLD, 0), "no effect", "Linux 6.9 (this is 6.1)"),
    (judges.passthrough(ON, FAR, REMOTE, NEW, 0), "no effect", "whole block"),
    (judges.passthrough(ON, FILE, LOCAL, NEW, 1000), "no effect", "CAP_SYS_ADMIN"),
    (judges.passthrough(ON, FILE, LOCAL, NEW, 0), "no effect", "stacked"),
    (judges.passthrough({**ON, "direct_io": True}, FILE, ASKED, NEW, 0), "no effect", "direct_io is on"),
    (judges.passthrough({**ON, "short_circuit": "off"}, FILE, REMOTE, NEW, 0), "no effect", "short_circuit=file"),
    (judges.passthrough(ON, ProbeFile("/m/a", 9, 3, 3), LOCAL, NEW, 0), "cannot tell", "3 blocks"),
    (judges.passthrough({**ON, "passthrough": False}, FILE, LOCAL, NEW, 0), "not set", "off"),
    (judges.access_time({}, 1, 1), "ok", "no access time"),
    (judges.access_time({}, 1, 2), "no effect", "though that is off"),
    (judges.access_time({"update_access_time": True}, 1, 2), "ok", "in batches"),
    (judges.access_time({"update_access_time": True}, 1, 1), "no effect", "did not change"),
    (judges.metadata_cache(ON, Counted()), "ok", "the kernel"),
    (judges.metadata_cache(ON, Counted(requests={"lookup": 1.0}, lookups={"hit": 1.0})), "ok", "the gateway's cache"),
    (judges.metadata_cache(ON, Counted(lookups={"miss": 2.0})), "no effect", "asked a master 2 times"),
    (judges.metadata_cache({}, Counted(lookups={"miss": 2.0})), "not set", "2 times"),
    (judges.metadata_cache({**ON, "metadata_cache": False}, Counted(lookups={"miss": 1.0})), "not set", "is off"),
    *(
        case
        for name in ("entry_timeout", "attr_timeout", "negative_timeout")
        for case in (
            (judges.kept_by_kernel(name, {name: 5.0}, 0, took_s=9.0), "ok", "by the kernel"),
            (judges.kept_by_kernel(name, {name: 5.0}, 1, took_s=0.1), "no effect", "1 requests after 0.1 s, and 5 s"),
            (judges.kept_by_kernel(name, {name: 5.0}, 1, took_s=5.0), "cannot tell", "after 5.0 s"),
            (judges.kept_by_kernel(name, {name: 0.0}, 2, took_s=0.1), "not set", "2 requests"),
        )
    ),
    (judges.client_metadata_cache(1, 0, 60.0), "ok", "no master"),
    (judges.client_metadata_cache(1, 1, 60.0), "no effect", "1 times"),
    (judges.client_metadata_cache(1, 1, 0.0), "not set", "always"),
    (judges.replicas(2, 3, ["a", "b"]), "ok", "2 copies"),
    (judges.replicas(2, 3, ["a"]), "no effect", "is there room"),
    (judges.replicas(2, 1, ["a"]), "no effect", "only 1 workers"),
    (judges.threads(ON, 0, 2.0, 8), "ok", "grants 2 of 8"),
    (judges.threads({"threads": 3}, 3, 2.0, 8), "ok", "3 data helpers"),
    (judges.threads({"threads": 3}, 1, 2.0, 8), "no effect", "threads=3 and 1"),
    (judges.threads({"threads": "auto"}, 7, 2.0, 8), "no effect", "7 data helpers"),
    (judges.threads(ON, None, 2.0, 8), "cannot tell", "no gateway"),
    (judges.clocks({"m": 0.1, "w": -0.4}, 0.01), "ok", "w is -0.40 s"),
    (judges.clocks({"m": 0.1, "w": -45.0}, 0.01), "no effect", "w is -45.00 s"),
    (judges.clocks({}, 0.0), "cannot tell", "no service"),
    (judges.http_version({"2": 4.0}), "ok", "HTTP/2"),
    (judges.http_version({"2": 4.0, "1.1": 2.0}), "no effect", "2 by HTTP/1.1"),
    (judges.http_version({}), "cannot tell", "by file"),
    (judges.read_ahead(ON, 4096), "ok", "4096"),
    (judges.read_ahead(ON, 128), "no effect", "128, not 4096"),
    (judges.read_ahead(ON, None), "cannot tell", "/sys"),
    (judges.read_ahead({"read_ahead_kib": 0}, 128), "not set", "own"),
    (judges.worker_list_refresh({"worker_list_refresh_interval": 30.0}, 12.0), "ok", "12.0 s ago; 30 s"),
    (judges.worker_list_refresh({"worker_list_refresh_interval": 1.0}, 9.0), "no effect", "does not answer"),
    (judges.worker_list_refresh({}, 9.0), "not set", "watches"),
    (judges.worker_list_refresh({"worker_list_refresh_interval": 1.0}, None), "cannot tell", "how old"),
    (judges.location_policy(Entered("deterministic-hash", {"w1": 3}, HOMES, blocks=3)), "ok", "3 reads of 3"),
    (judges.location_policy(Entered("deterministic-hash", {"w3": 3}, HOMES)), "no effect", "w3 is home of none"),
    (judges.location_policy(Entered("deterministic-hash", {})), "cannot tell", "nobody"),
    (judges.location_policy(Entered("local-first", {"localhost": 2})), "ok", "this host"),
    (judges.location_policy(Entered("local-first", {"w1": 2})), "no effect", "short_circuit_dirs"),
    (judges.location_policy(Entered("round-robin", {"w1": 2, "w2": 2}, workers=2, blocks=4)), "ok", "w1, w2"),
    (judges.location_policy(Entered("round-robin", {"w1": 4}, workers=2, blocks=4)), "no effect", "went to w1"),
    (judges.location_policy(Entered("round-robin", {"w1": 4}, workers=1, blocks=4)), "no effect", "only one worker"),
    (judges.location_policy(Entered("round-robin", {"w1": 1}, workers=2, blocks=1)), "cannot tell", "one block"),
    (judges.location_policy(Entered("most-available", {"w1": 2}, roomiest="w1")), "ok", "most room"),
    (judges.location_policy(Entered("most-available", {"w2": 2}, roomiest="w1")), "no effect", "w1 has most room"),
    (judges.read_type("CACHE", "w1", was_here=False, is_here=True), "ok", "kept the block"),
    (judges.read_type("CACHE", "w1", was_here=False, is_here=False), "no effect", "did not keep"),
    (judges.read_type("NO_CACHE", "w1", was_here=False, is_here=False), "ok", "kept nothing"),
    (judges.read_type("NO_CACHE", "w1", was_here=False, is_here=True), "no effect", "kept the block"),
    (judges.read_type("NO_CACHE", "w1", was_here=True, is_here=True), "cannot tell", "already"),
    (judges.read_type("CACHE_PROMOTE", "w1", was_here=True, is_here=True, promoted=1), "ok", "1 blocks"),
    (judges.read_type("CACHE_PROMOTE", "w1", was_here=True, is_here=True), "cannot tell", "moved nothing"),
    (judges.passive_cache(True, "w2", is_here=True), "ok", "kept a copy"),
    (judges.passive_cache(True, "w2", is_here=False), "no effect", "kept no copy"),
    (judges.passive_cache(False, "w2", is_here=False), "not set", "kept no copy"),
    (judges.passive_cache(False, "w2", is_here=True), "no effect", "is off"),
    (judges.kernel("6.12.3-x"), "ok", "passthrough"),
    (judges.kernel("6.1.0"), "ok", "not here: "),
    (judges.zookeeper("http://m:1", None), "not set", "embedded"),
    (judges.zookeeper("zookeeper://z:1/x", 0.012), "ok", "12 ms"),
    (judges.zookeeper("zookeeper://z:1/x", None, "refused"), "no effect", "refused"),
    (judges.registry(True, 0.5), "ok", "0.5 s"),
    (judges.registry(False, 90.0), "no effect", "not connected"),
]


@pytest.mark.parametrize(("finding", "verdict", "words"), CASES)
def test_a_switch_is_judged_by_what_was_measured(finding: Finding, verdict: Verdict, words: str) -> None:
    assert finding.verdict == verdict, finding
    assert words in finding.saw


def test_every_switch_is_among_the_cases_once_working_and_once_broken() -> None:
    works = {finding.switch for finding, verdict, _ in CASES if verdict == "ok"}
    broken = {finding.switch for finding, verdict, _ in CASES if verdict == "no effect"}

    assert works - broken == {"kernel"}


def test_only_a_switch_without_effect_is_a_failure() -> None:
    good: list[Verdict] = ["ok", "not set", "cannot tell"]

    assert is_sound([Finding("x", verdict, "") for verdict in good])
    assert not is_sound([Finding("x", "ok", ""), Finding("y", "no effect", "")])


def test_what_is_counted_between_two_looks_leaves_out_the_look_itself() -> None:
    page = 'forebay_fuse_requests_total{{op="open"}} {}\nforebay_client_read_bytes_total{{source="local"}} {}\n'
    own = {("forebay_fuse_requests_total", "open"): 1.0}

    counted = difference(parse(page.format(5, 0)), parse(page.format(7, 1e3)), own)

    assert counted.requests == {"open": 1.0}
    assert counted.bytes_by == {"local": 1000.0}


def test_a_worker_s_page_tells_which_http_its_readers_spoke() -> None:
    name, route = "http_server_request_duration_seconds_count", 'http_route="/v1/blocks/{block_id}"'
    page = (
        f'{name}{{http_request_method="GET",{route},network_protocol_version="2"}} 3.0\n'
        f'{name}{{http_request_method="GET",{route},network_protocol_version="1.1"}} 1.0\n'
        f'{name}{{http_request_method="GET",http_route="/metrics",network_protocol_version="1.1"}} 9.0\n'
    )

    assert by_version(page) == {"2": 3, "1.1": 1}
