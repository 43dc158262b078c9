"""Writes the API's documents: ``python docs/write.py`` (``make docs``); with ``--check`` it only says what is old.

It starts one of each service and asks for its ``/openapi.json``, so the files say what is served.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import orjson

from forebay.testing.cluster import Cluster
from forebay.transport.openapi import Json, markdown

HERE = Path(__file__).parent
SERVICES = {"master": "forebay-master", "worker-0": "forebay-worker", "gateway": "forebay-fuse"}
HEAD = """# The HTTP API

Made by `make docs` of what each service serves at `/openapi.json` (in this folder as JSON). Bodies are JSON, over
HTTP/1.1 and HTTP/2 on one port. Every error is an [ErrorReply](#errorreply). Requests marked *admin* need
`authorization: Bearer TOKEN` where the service was given an admin token, and come over loopback or the Unix socket
where it was not. The master shown is one that keeps the registry itself; with ZooKeeper members do not announce
themselves over HTTP.
"""


def served() -> dict[str, Json]:
    """The documents by service, from real processes."""
    with (
        tempfile.TemporaryDirectory(prefix="forebay-docs-") as folder,
        Cluster.of_folder(Path(folder), mounts=1) as cluster,
    ):
        return {name: orjson.loads(cluster.http(child, "/openapi.json")) for child, name in SERVICES.items()}


def files(documents: dict[str, Json]) -> dict[Path, str]:
    """What the files have to hold."""
    out = {
        HERE / f"{name}.openapi.json": orjson.dumps(said, option=orjson.OPT_INDENT_2).decode() + "\n"
        for name, said in documents.items()
    }
    whole = {name: said["components"]["schemas"] for name, said in documents.items()}
    records = {kind: schema for schemas in whole.values() for kind, schema in schemas.items()}
    parts = [markdown(said, records={}) for said in documents.values()]
    common = markdown({"info": {"title": "Records"}, "paths": {}}, records=dict(sorted(records.items())))
    out[HERE / "API.md"] = "\n".join([HEAD, *parts, common])
    return out


def main(argv: list[str]) -> int:
    """The process; its exit code (1: something was old)."""
    wanted = files(served())
    old = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    for path in old:
        if "--check" in argv:
            sys.stderr.write(f"{path.name} is old; run `make docs`\n")
        else:
            path.write_text(wanted[path])
    return 1 if old and "--check" in argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
