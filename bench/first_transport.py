"""Figures of the transport: ours against aiohttp over HTTP/1.1, and our server against nginx before our client.

Every side is a process of its own (``bench/transport_sides.py``) that stays up; runs alternate, so that both sides see
the same machine. Both sides run without telemetry; the same with default telemetry is in the detail.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import Figure, Options, Run, compare, environment
from bench.transport_sides import CONCURRENCY, H1_READ_BUFFER_BYTES

BLOB_BYTES = 64 << 20
RUN_BYTES = 1 << 30
RUN_RPCS = 4096
QUICK_BYTES = 128 << 20
QUICK_RPCS = 512
ANSWER_TIMEOUT_S = 120.0

# Its best of what was tried on tmpfs: sendfile with chunks of 256 KiB and 1 MiB, buffers of 512 KiB and 1 MiB.
NGINX_CONFIG = """
worker_processes 1;
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/error.log crit;
events {{ worker_connections 256; }}
http {{
  access_log off;
  sendfile off;
  output_buffers 2 512k;
  tcp_nopush off;
  tcp_nodelay on;
  open_file_cache max=16;
  keepalive_requests 1000000;
  http2_chunk_size 1m;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  server {{ listen 127.0.0.1:{port} http2 sndbuf=512k; root {root}; location = /blob {{ }} }}
}}
"""


class Side:
    """One process of the bench; talks in lines."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "bench.transport_sides", *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self) -> str:
        """Its next line."""
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        if not text:
            raise RuntimeError(f"a side of the bench ended with {self._process.wait()}")
        return text.strip()

    def ask(self, **command: Any) -> dict[str, float]:
        """One command, one answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer: dict[str, float] = json.loads(self.line())
        return answer

    def cpu_s(self) -> float:
        """CPU seconds it has used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def side(*arguments: str) -> Iterator[Side]:
    """A process for the length of the ``with``."""
    process = Side(*arguments)
    try:
        yield process
    finally:
        process.close()


@contextmanager
def blob_file() -> Iterator[Path]:
    """`BLOB_BYTES` of noise in memory (tmpfs where there is one)."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="forebay-bench-", dir=place) as name:
        path = Path(name) / "blob"
        path.write_bytes(os.urandom(1 << 20) * (BLOB_BYTES >> 20))
        yield path


@contextmanager
def nginx(blob: Path) -> Iterator[int]:
    """nginx serving the blob over HTTP/2; yields its port."""
    binary = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if binary is None:
        raise RuntimeError("nginx is missing; as root: apt-get install nginx-light")
    with socket.socket() as probe, tempfile.TemporaryDirectory(prefix="forebay-nginx-") as name:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        probe.close()
        os.chmod(name, 0o755)  # its worker drops root
        os.chmod(blob.parent, 0o755)
        config = Path(name) / "nginx.conf"
        config.write_text(NGINX_CONFIG.format(dir=name, port=port, root=blob.parent, chunk="256k"))
        process = subprocess.Popen([binary, "-c", str(config), "-p", name], stderr=subprocess.DEVNULL)
        try:
            _await_port(port)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def _await_port(port: int, timeout_s: float = 10.0) -> None:
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"nothing listens on port {port}")


def _client(stack: ExitStack, kind: str, port: int | str, blob: Path, telemetry: str = "none") -> Side:
    arguments = ("client", kind, "--port", str(port), "--blob", str(blob), "--telemetry", telemetry)
    return stack.enter_context(side(*arguments))


def _pair(stack: ExitStack, kind: str, blob: Path, telemetry: str = "none") -> Side:
    """A server and its client, both of ``kind``; returns the client."""
    server = stack.enter_context(side("server", kind, "--blob", str(blob), "--telemetry", telemetry))
    return _client(stack, kind, server.line(), blob, telemetry)


def _blocks(client: Side, options: Options) -> Run:
    total = QUICK_BYTES if options.quick else RUN_BYTES
    return lambda: client.ask(op="blocks", bytes=total)["rate"] / 1e6


def _rpcs(client: Side, options: Options) -> Run:
    count = QUICK_RPCS if options.quick else RUN_RPCS
    return lambda: client.ask(op="rpc", count=count)["rate"]


def _beside(run: Run, options: Options) -> float:
    """The median rate of another arrangement, for the detail."""
    run()
    return round(median(run() for _ in range(1 if options.quick else 5)), 1)


def _versions() -> dict[str, str]:
    return environment("aiohttp", "uvloop", "hpack", "orjson", "msgspec")


H1_SETTINGS = (
    f"aiohttp: uvloop, access_log=None, read_bufsize={H1_READ_BUFFER_BYTES}, iter_any() into the buffer, "
    f"auto_decompress=False, no cookies, keep-alive, limit={CONCURRENCY}"
)


def block_vs_h1(options: Options) -> Figure:
    """4 MiB ranges from memory, one stream: our server and client over aiohttp's own over HTTP/1.1."""
    goal = 1.6
    with ExitStack() as stack:
        blob = stack.enter_context(blob_file())
        ours, theirs = _pair(stack, "ours", blob), _pair(stack, "h1", blob)
        ratio = compare(
            _blocks(ours, options), _blocks(theirs, options), goal=goal, options=options, name="block_vs_h1"
        )
        beside = {
            "ours_with_telemetry_MBps": _beside(_blocks(_pair(stack, "ours", blob, "default"), options), options),
            "theirs_with_our_socket_buffer_MBps": _beside(_blocks(_pair(stack, "h1-tuned", blob), options), options),
        }
    detail = ratio.detail("MBps") | beside | {"theirs_settings": H1_SETTINGS, "versions": _versions()}
    return Figure("first", "block_vs_h1", ratio.value, goal=goal, detail=detail)


def rpc_vs_h1(options: Options) -> Figure:
    """JSON RPCs, 16 under way: one connection of ours over 16 of aiohttp's."""
    goal = 1.3
    with ExitStack() as stack:
        blob = stack.enter_context(blob_file())
        ours, theirs = _pair(stack, "ours", blob), _pair(stack, "h1", blob)
        ratio = compare(_rpcs(ours, options), _rpcs(theirs, options), goal=goal, options=options, name="rpc_vs_h1")
        observed = _beside(_rpcs(_pair(stack, "ours", blob, "default"), options), options)
    beside = {"ours_with_telemetry_rps": observed, "theirs_settings": H1_SETTINGS, "versions": _versions()}
    return Figure("first", "rpc_vs_h1", ratio.value, goal=goal, detail=ratio.detail("rps") | beside)


def block_vs_nginx(options: Options) -> Figure:
    """4 MiB ranges, one stream, our client: from our server over from nginx (one worker, its best settings)."""
    goal = 0.8
    with ExitStack() as stack:
        blob = stack.enter_context(blob_file())
        ours = _pair(stack, "ours", blob)
        theirs = _client(stack, "ours", stack.enter_context(nginx(blob)), blob)
        ratio = compare(_blocks(ours, options), _blocks(theirs, options), goal=goal, options=options, name="nginx")
    settings = " ".join(line.strip() for line in NGINX_CONFIG.splitlines() if any(key in line for key in NGINX_SHOWN))
    detail = ratio.detail("MBps") | {"theirs_settings": f"nginx: {settings}", "versions": _versions()}
    return Figure("first", "block_vs_nginx", ratio.value, goal=goal, detail=detail)


NGINX_SHOWN = ("worker_processes", "sendfile", "tcp_", "open_file_cache", "http2")

FIGURES = {"block_vs_h1": block_vs_h1, "rpc_vs_h1": rpc_vs_h1, "block_vs_nginx": block_vs_nginx}
