"""In the place of the collector, whose image no test can have: says once of each service which signals it sends."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SERVICES = (b"forebay-master", b"forebay-worker", b"forebay-fuse")
SEEN: set[tuple[str, bytes]] = set()


class Receiver(BaseHTTPRequestHandler):
    """OTLP over HTTP; names are looked for in the bytes of the message."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        for name in SERVICES:
            if name in body and (self.path, name) not in SEEN:
                SEEN.add((self.path, name))
                sys.stdout.write(f"{self.path} {name.decode()}\n")
                sys.stdout.flush()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing of each request."""


ThreadingHTTPServer(("0.0.0.0", 4318), Receiver).serve_forever()
