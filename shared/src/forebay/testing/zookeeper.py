"""A real ZooKeeper for tests: one server, or an ensemble, on loopback from the distribution's jars, with fast ticks.

Stopping keeps the data folder, so a restart has the same sessions and nodes; closing removes it.
"""

from __future__ import annotations

import shutil
import signal
import socket
from pathlib import Path
from types import TracebackType

from forebay.testing.tools import Process, ToolMissing, free_ports, temporary_folder

JARS = ("zookeeper.jar", "slf4j-simple.jar", "servlet-api.jar", "jetty9-util-ajax.jar")
JAR_FOLDER = Path("/usr/share/java")
READY_TIMEOUT_S = 30.0
TICK_MS = 500

_CONFIG = """\
dataDir={folder}
clientPort={port}
clientPortAddress=127.0.0.1
tickTime={tick}
initLimit=20
syncLimit=10
minSessionTimeout=1000
maxSessionTimeout=60000
maxClientCnxns=0
admin.enableServer=false
4lw.commands.whitelist=*
"""


class ZooKeeperServer:
    """``with ZooKeeperServer() as server: server.address`` is ``host:port``."""

    def __init__(self, *, port: int | None = None, number: int = 0, others: str = "") -> None:
        self.port = port or free_ports(1)[0]
        self._number, self._others = number, others
        self._folder = temporary_folder("zookeeper")
        self._process: Process | None = None

    @property
    def address(self) -> str:
        """``host:port`` of the client port; the same after a restart."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it and waits until it serves."""
        folder = Path(self._folder.name)
        text = _CONFIG.format(folder=folder, port=self.port, tick=TICK_MS)
        (folder / "zoo.cfg").write_text(text + self._others)
        if self._others:
            (folder / "myid").write_text(str(self._number))
        flags = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", _class_path()]
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        self._process = Process([_java(), *flags, main, folder / "zoo.cfg"], folder=folder)
        if not self._others:  # one of an ensemble serves when most are there
            self.wait_ready()

    def wait_ready(self) -> None:
        """Until it serves."""
        self._running().wait_ready(self.is_serving, READY_TIMEOUT_S)

    def is_serving(self) -> bool:
        """Whether it answers ``ruok``."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=0.5) as s:
                s.sendall(b"ruok")
                return s.recv(16) == b"imok"
        except OSError:
            return False

    def stop(self, *, kill: bool = False) -> None:
        """Ends the process; data and sessions stay for a later ``start``."""
        if self._process is not None:
            self._process.stop(kill=kill)
            self._process = None

    def restart(self) -> None:
        """Stop and start at the same port with the same data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freezes it: connections stay, nothing is answered."""
        self._running().pause()

    def resume(self) -> None:
        """Ends ``pause``."""
        self._running().signal(signal.SIGCONT)

    def close(self) -> None:
        """Kills it and removes its folder."""
        self.stop(kill=True)
        self._folder.cleanup()

    def _running(self) -> Process:
        if self._process is None:
            raise RuntimeError("ZooKeeper is not running")
        return self._process

    def __enter__(self) -> ZooKeeperServer:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ZooKeeperEnsemble:
    """``with ZooKeeperEnsemble() as ensemble``: three servers that agree; any two go on without the third."""

    SIZE = 3

    def __init__(self) -> None:
        ports = free_ports(3 * self.SIZE)
        lines = (f"server.{n + 1}=127.0.0.1:{ports[3 * n]}:{ports[3 * n + 1]}" for n in range(self.SIZE))
        others = "\n".join(lines) + "\n"
        self.servers = [ZooKeeperServer(port=ports[3 * n + 2], number=n + 1, others=others) for n in range(self.SIZE)]

    @property
    def address(self) -> str:
        """All of them, as the registry setting has it."""
        return ",".join(server.address for server in self.servers)

    def __enter__(self) -> ZooKeeperEnsemble:
        try:
            for server in self.servers:
                server.start()
            for server in self.servers:
                server.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kills all and removes their folders."""
        for server in self.servers:
            server.close()


def _java() -> str:
    java = shutil.which("java")
    if java is None:
        raise ToolMissing("no java; as root: apt-get install openjdk-17-jre-headless libzookeeper-java libslf4j-java")
    return java


def _class_path() -> str:
    missing = [jar for jar in JARS if not (JAR_FOLDER / jar).exists()]
    if missing:
        raise ToolMissing(f"no {', '.join(missing)}; as root: apt-get install libzookeeper-java libslf4j-java")
    return ":".join(str(JAR_FOLDER / jar) for jar in JARS)
