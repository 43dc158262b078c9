"""Others' HTTP/2 against ours, both ways: `h2` (strict), curl, nghttp, h2load, nginx, and aiohttp over HTTP/1.1."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from forebay.runtime import Deadline
from forebay.testing import run
from forebay.testing.transport import BODY, eventually, pair
from forebay.transport import HttpClient

TIMEOUT_S = 20.0


def tool(name: str) -> str:
    path = shutil.which(name) or shutil.which(f"/usr/sbin/{name}")
    if path is None:
        pytest.fail(f"{name} is not installed: .ci/system test")
    return path


async def output(*command: str, stdin: bytes | None = None) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.PIPE if stdin is not None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(TIMEOUT_S):
        out, err = await process.communicate(stdin)
    assert process.returncode == 0, err.decode()
    return out.decode("latin-1")


# -- h2's client, which checks everything we send


class StrictClient:
    """`h2` on a socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self._h2 = h2.connection.H2Connection(config)
        self._h2.initiate_connection()
        self.bodies: dict[int, bytearray] = {}
        self.heads: dict[int, dict[str, str]] = {}
        self.events: list[Any] = []

    async def request(
        self, stream_id: int, method: str, path: str, body: bytes = b"", *, trailers: bool = False
    ) -> None:
        fields = [(":method", method), (":scheme", "http"), (":authority", "x"), (":path", path)]
        self._h2.send_headers(stream_id, fields, end_stream=not body)
        position = 0
        while position < len(body):
            count = min(
                len(body) - position,
                self._h2.local_flow_control_window(stream_id),
                self._h2.max_outbound_frame_size,
            )
            if not count:
                await self._turn()
                continue
            self._h2.send_data(stream_id, body[position : position + count], pad_length=7 if count < 8000 else None)
            position += count
        if body and trailers:
            self._h2.send_headers(stream_id, [("x-crc", "1")], end_stream=True)
        elif body:
            self._h2.end_stream(stream_id)
        await self._flush()

    async def replies(self, *stream_ids: int) -> None:
        """Reads until these streams have ended."""
        async with asyncio.timeout(TIMEOUT_S):
            while not set(stream_ids) <= {e.stream_id for e in self.events if isinstance(e, h2.events.StreamEnded)}:
                await self._turn()

    async def _flush(self) -> None:
        self._writer.write(self._h2.data_to_send())
        await self._writer.drain()

    async def _turn(self) -> None:
        await self._flush()
        chunk = await self._reader.read(1 << 16)
        assert chunk, "the server closed"
        for event in self._h2.receive_data(chunk):
            self.events.append(event)
            if isinstance(event, h2.events.ResponseReceived):
                self.heads[event.stream_id] = {str(name): str(value) for name, value in event.headers}
            elif isinstance(event, h2.events.DataReceived):
                self.bodies.setdefault(event.stream_id, bytearray()).extend(event.data)
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        await self._flush()

    async def close(self) -> None:
        self._h2.close_connection()
        await self._flush()
        self._writer.close()


async def strict(address: str) -> StrictClient:
    host, _, port = address.rpartition(":")
    return StrictClient(*await asyncio.open_connection(host, int(port)))


def test_a_strict_client_finds_no_fault_with_our_server() -> None:
    async def main() -> None:
        async with pair() as p:
            client = await strict(p.peer)
            # when: several streams at once, bodies both ways, padding, trailers, HEAD
            body = BODY * 2
            await client.request(1, "GET", "/bytes/300000")
            await client.request(3, "POST", "/crc", body, trailers=True)
            await client.request(5, "HEAD", "/")
            await client.request(7, "POST", "/echo", b"short")
            await client.request(9, "GET", "/nowhere")
            await client.replies(1, 3, 5, 7, 9)
            # then
            assert client.bodies[1] == BODY[:300_000]
            assert client.bodies[3].decode() == f"{zlib.crc32(body)} {len(body)}"
            assert 5 not in client.bodies
            assert client.heads[5]["content-length"] == "6"
            assert client.bodies[7] == b"short"
            assert client.heads[9][":status"] == "404"
            await client.close()

    run(main())


# -- h2's server, which checks everything our client sends


async def strict_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echoes bodies, in DATA frames of 1,000 bytes with padding."""
    config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
    connection = h2.connection.H2Connection(config)
    codes = h2.settings.SettingCodes
    connection.local_settings = h2.settings.Settings(client=False, initial_values={codes.MAX_CONCURRENT_STREAMS: 10})
    connection.initiate_connection()
    writer.write(connection.data_to_send())
    bodies: dict[int, bytearray] = {}
    pending: dict[int, bytearray] = {}
    while chunk := await reader.read(1 << 16):
        for event in connection.receive_data(chunk):
            if isinstance(event, h2.events.RequestReceived):
                bodies[event.stream_id] = bytearray()
            elif isinstance(event, h2.events.DataReceived):
                bodies[event.stream_id] += event.data
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                pending[event.stream_id] = bodies.pop(event.stream_id)
                fields = [(":status", "200"), ("content-length", str(len(pending[event.stream_id])))]
                connection.send_headers(event.stream_id, fields)
            elif isinstance(event, h2.events.StreamReset):
                pending.pop(event.stream_id, None)
        for stream_id, body in list(pending.items()):
            while body and connection.local_flow_control_window(stream_id) > 1100:
                connection.send_data(stream_id, bytes(body[:1000]), pad_length=50)
                del body[:1000]
            if not body:
                connection.end_stream(stream_id)
                del pending[stream_id]
        writer.write(connection.data_to_send())
        await writer.drain()
    writer.close()


def test_a_strict_server_finds_no_fault_with_our_client() -> None:
    async def main() -> None:
        server = await asyncio.start_server(strict_server, "127.0.0.1", 0)
        peer = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = HttpClient(None)
        await client.fetch(peer, "POST", "/x", body=b"x", deadline=Deadline.after(TIMEOUT_S))  # brings its settings
        # when more calls than its limit of ten are made at once, with bodies beyond its windows
        bodies = [os.urandom(1 + 37_000 * number) for number in range(30)]
        calls = [client.fetch(peer, "POST", "/x", body=body, deadline=Deadline.after(TIMEOUT_S)) for body in bodies]
        replies = await asyncio.gather(*calls)
        # then
        assert [reply.body for reply in replies] == bodies
        # and a cancelled call does not disturb the connection
        call = asyncio.create_task(client.fetch(peer, "POST", "/", body=BODY, deadline=Deadline.after(TIMEOUT_S)))
        await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert (await client.fetch(peer, "POST", "/", body=b"on", deadline=Deadline.after(TIMEOUT_S))).body == b"on"
        buffer = bytearray()
        assert (await client.read_into(peer, "/", memoryview(buffer), deadline=Deadline.after(5))).length == 0
        await client.close()
        server.close()

    run(main())


# -- tools


@pytest.mark.parametrize("version", ["--http2-prior-knowledge", "--http1.1", "--http2"])
def test_curl_is_served(version: str, tmp_path: Path) -> None:
    async def main() -> None:
        curl = tool("curl")
        async with pair() as p:
            url = f"http://{p.peer}"
            answer = await output(curl, "-sS", "-i", version, url + "/")
            assert answer.splitlines()[0].split()[:2] == ["HTTP/2" if "prior" in version else "HTTP/1.1", "200"]
            assert answer.endswith("hello\n")
            # a body up, larger than any window, and one down
            (tmp_path / "up").write_bytes(BODY * 3)
            crc = await output(curl, "-sS", version, "--data-binary", f"@{tmp_path / 'up'}", url + "/crc")
            assert crc == f"{zlib.crc32(BODY * 3)} {len(BODY) * 3}"
            await output(curl, "-sS", version, "-o", str(tmp_path / "down"), url + "/bytes/3000000")
            assert (tmp_path / "down").read_bytes() == (BODY * 3)[:3_000_000]
            # HEAD, and a request that is not there
            assert "content-length: 6" in (await output(curl, "-sS", "-I", version, url + "/")).lower()
            assert (await output(curl, "-sS", "-o", "/dev/null", "-w", "%{http_code}", version, url + "/no")) == "404"

    run(main())


def test_nghttp_is_served() -> None:
    async def main() -> None:
        nghttp = tool("nghttp")
        async with pair() as p:
            shown = await output(nghttp, "-nv", "--no-dep", f"http://{p.peer}/bytes/100000", f"http://{p.peer}/")
            assert shown.count(":status: 200") == 2
            assert "RST_STREAM" not in shown

    run(main())


def test_h2load_gets_every_reply() -> None:
    async def main() -> None:
        h2load = tool("h2load")
        async with pair() as p:
            shown = await output(h2load, "-n", "2000", "-c", "4", "-m", "32", f"http://{p.peer}/")
            assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in shown
            shown = await output(h2load, "-n", "40", "-c", "2", "-m", "8", f"http://{p.peer}/bytes/1000000")
            assert "40 succeeded, 0 failed, 0 errored, 0 timeout" in shown
            await eventually(lambda: p.server.connections == 0)

    run(main())


def test_aiohttps_own_client_is_served_over_http_1() -> None:
    async def main() -> None:
        async with pair() as p, aiohttp.ClientSession(f"http://{p.peer}") as session:
            async with session.post("/crc", data=BODY) as reply:
                assert await reply.text() == f"{zlib.crc32(BODY)} {len(BODY)}"
            async with session.get("/reused") as reply:
                body = await reply.read()
                assert [body[n << 20] for n in range(8)] == list(range(8))
            async with session.get("/broken") as reply:
                assert reply.status == 500
            text = p.telemetry.metrics.render().decode()
            assert 'http_route="/crc",network_protocol_version="1.1"' in text

    run(main())


NGINX = """
worker_processes 1; daemon off; pid {dir}/pid; error_log {dir}/log crit;
events {{ worker_connections 64; }}
http {{
  access_log off; default_type application/octet-stream;
  client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  server {{ listen 127.0.0.1:{port} http2; root {dir}/www; keepalive_requests 20; }}
}}
"""


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[str]:
    """nginx with a file of three times `BODY`, which says GOAWAY after 20 requests."""
    binary = tool("nginx")
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):  # its worker drops root; parallel runs nest one deeper
        if folder.name.startswith(("pytest-", "popen-", tmp_path.name)):
            folder.chmod(0o755)
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "blob").write_bytes(BODY * 3)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "conf").write_text(NGINX.format(dir=tmp_path, port=port))
    process = subprocess.Popen([binary, "-c", str(tmp_path / "conf"), "-p", str(tmp_path)], stderr=subprocess.DEVNULL)
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait(10)


def test_nginx_serves_our_client(nginx: str) -> None:
    async def main() -> None:
        client = HttpClient(None)

        async def up() -> bool:
            try:
                return (await client.fetch(nginx, "GET", "/blob", deadline=Deadline.after(1))).status == 200
            except Exception:  # noqa: BLE001  # any failure means: not yet
                return False

        async with asyncio.timeout(TIMEOUT_S):
            while not await up():
                await asyncio.sleep(0.02)

        async def read(start: int) -> None:
            buffer = bytearray(100_000)
            headers = {"range": f"bytes={start}-{start + 99_999}"}
            reply = await client.read_into(
                nginx, "/blob", memoryview(buffer), deadline=Deadline.after(TIMEOUT_S), headers=headers
            )
            assert (reply.status, reply.length) == (206, 100_000)
            assert buffer == (BODY * 3)[start : start + 100_000]

        # when far more is read than it serves on one connection, several at once
        for start in range(0, 100_000, 1000):
            await asyncio.gather(read(start), read(start + 1), read(start + 2))
        missing = await client.fetch(nginx, "GET", "/nothing", deadline=Deadline.after(TIMEOUT_S))
        assert missing.status == 404
        await client.close()

    run(main())
