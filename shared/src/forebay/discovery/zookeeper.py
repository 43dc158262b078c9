"""The one door to ZooKeeper: kazoo on its own threads, awaited from the event loop, its errors made ours.

How the two worlds meet. kazoo answers in a thread of its own; each answer takes one hop to the loop
(``call_soon_threadsafe``) and nothing else happens over there: no recipe of kazoo's is used, because they block.
Watches are plain and one-shot. kazoo drops them when the connection breaks and does not arm them again, so whoever
reads here reads again whenever ``connections`` has grown.

What a caller must know: a call that fails with ``PeerUnavailable`` may have been carried out (look at what is there,
then decide again); the session's loss is learned only when the server can be reached again, so time counts from
``suspended_s``; nothing here survives a fork.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import (
    AuthFailedError,
    BadVersionError,
    KazooException,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    RolledBackError,
    RuntimeInconsistency,
)
from kazoo.protocol.states import KeeperState
from kazoo.security import ACL, make_acl, make_digest_acl

from forebay.discovery.access import Access, Grant
from forebay.errors import Conflict, DeadlineExceeded, ForebayError, InvalidRequest, PeerUnavailable, PermissionDenied
from forebay.runtime import logs

ZNODE_BYTES_MAX = 1_000_000
"""Most data in one request: one over the server's 1 MiB (jute.maxbuffer) drops the connection, not the request."""

RECONNECT = {"max_tries": -1, "delay": 0.1, "backoff": 2, "max_delay": 2.0, "max_jitter": 0.4}

CONNECT_WAIT_S = 1.0
"""How long to wait for a connection before it counts as missing and is said so; connecting goes on all the while."""

STARTED_AFTER_S = 1.0
REVIVE_SESSIONS = 2.0
"""Without a connection for so many session times, a new session is begun."""

LOG = logs.get(__name__)

_KAZOO_LOG = logging.getLogger("forebay.discovery.kazoo")
_KAZOO_LOG.setLevel(logging.ERROR)  # it warns with each failed connect, without end; ``link`` says it once


@dataclass(frozen=True)
class Znode:
    """Data with what a compare-and-set needs. ``owner`` is the session of an ephemeral node, else 0."""

    data: bytes
    version: int
    owner: int


@dataclass(frozen=True)
class Check:
    """Part of a transaction: the node must exist, in that version unless that is -1."""

    path: str
    version: int = -1


@dataclass(frozen=True)
class Create:
    """Part of a transaction: the node must not exist, its parent must."""

    path: str
    data: bytes
    ephemeral: bool = False


@dataclass(frozen=True)
class Set:
    """Part of a transaction: the node must have that version."""

    path: str
    data: bytes
    version: int


@dataclass(frozen=True)
class Delete:
    """Part of a transaction: the node must exist, in that version unless that is -1."""

    path: str
    version: int = -1


Part = Check | Create | Set | Delete


class ZooKeeper:
    """One session at a time with an ensemble, for one event loop. ``open`` first, ``close`` before the loop ends.

    Args:
        hosts: ``host:port`` of the servers.
        session_s: session time-out to ask for (the server bounds it).
        call_timeout_s: most time for one call.
        on_change: called on the loop after each change of the connection's state.
        on_watch: called on the loop with the path of a node (or of its parent) that was read with ``watch`` and has
            changed; with the empty text when a broken connection took the watches away.
        access: the keys of this process, and who may do what with the nodes it makes.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        session_s: float,
        call_timeout_s: float,
        on_change: Callable[[], None],
        on_watch: Callable[[str], None],
        access: Access,
    ) -> None:
        self.address = ",".join(hosts)
        self._access = access
        self._session_s = session_s
        self._call_timeout_s = call_timeout_s
        self._on_change, self._on_watch = on_change, on_watch
        self._client: Any = None
        self._opened_s = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connected = asyncio.Event()
        self.connections = 0
        self.session = 0
        self.suspended_s: float | None = None

    # -- the connection

    async def open(self) -> None:
        """Begins to connect, and goes on for ever; see ``wait_connected``. Again: with a new session."""
        await self.close()
        self._loop = asyncio.get_running_loop()
        self._client = KazooClient(
            hosts=self.address,
            timeout=self._session_s,
            connection_retry=RECONNECT,
            auth_data=[("digest", f"{user}:{password}") for user, password in self._access.digests],
            logger=_KAZOO_LOG,
        )
        self._client.add_listener(functools.partial(self._heard_state, self._client))
        self._opened_s = time.monotonic()
        await asyncio.to_thread(self._client.start_async)

    async def close(self) -> None:
        """Ends the session (its ephemeral nodes go at once) and kazoo's threads."""
        client, self._client = self._client, None
        if client is None:
            return
        self._connected.clear()
        await asyncio.to_thread(_stop, client)

    async def revive(self) -> None:
        """Begins anew where the client cannot get any further by itself: its thread ended (a reply that it could not
        read), or it has been without a connection for so long that its session is lost for sure. The latter matters
        after an ensemble lost its state: servers turn away a client that has seen a later change than they have."""
        if self._client is None:
            return
        now_s = time.monotonic()
        # A client that was just started is CLOSED, too, until its thread runs.
        is_closed = self._client.client_state in (KeeperState.CLOSED, KeeperState.AUTH_FAILED)
        has_ended = is_closed and now_s - self._opened_s > STARTED_AFTER_S
        is_stuck = (
            self.suspended_s is not None
            and now_s - max(self.suspended_s, self._opened_s) > REVIVE_SESSIONS * self._session_s
        )
        if has_ended or is_stuck:
            LOG.warning("zookeeper_connection_begun_anew", address=self.address, has_ended=has_ended)
            await self.open()

    @property
    def is_connected(self) -> bool:
        """Whether a session is known to be alive."""
        return self._connected.is_set()

    async def wait_connected(self) -> None:
        """Returns in a live session.

        Raises:
            PeerUnavailable: none within ``CONNECT_WAIT_S``.
        """
        try:
            async with asyncio.timeout(min(CONNECT_WAIT_S, self._call_timeout_s)):
                await self._connected.wait()
        except TimeoutError as e:
            raise PeerUnavailable(f"no ZooKeeper answers at {self.address}", address=self.address) from e

    def _heard_state(self, client: Any, state: str) -> None:
        # kazoo's thread: read what belongs to this moment, then hop.
        identity = client.client_id
        self._hop(self._take_state, client, state, identity[0] if identity else 0)

    def _take_state(self, client: Any, state: str, session: int) -> None:
        if client is not self._client:
            return  # a client that was replaced
        if state == KazooState.CONNECTED:
            self.suspended_s = None
            self.session = session
            self.connections += 1
            self._connected.set()
        else:
            self._connected.clear()
            if self.suspended_s is None:
                self.suspended_s = time.monotonic()
        self._on_change()

    def _hop(self, call: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            # The loop is closed: nobody is left to tell.
            _KAZOO_LOG.debug("the event loop ended before ZooKeeper's answer")

    # -- calls

    async def get(self, path: str, *, watch: bool = False) -> Znode | None:
        """The node, or ``None`` if there is none; ``watch`` tells once when that changes."""
        event = self._fired if watch else None
        while True:
            try:
                data, stat = await self._ask(lambda client: client.get_async(path, watch=event))
                return Znode(data, stat.version, stat.ephemeralOwner)
            except NoNodeError:
                # Only ``exists`` watches for a node that is yet to come.
                if event is None or await self._ask(lambda client: client.exists_async(path, watch=event)) is None:
                    return None

    async def children(self, path: str, *, watch: bool = False) -> list[str]:
        """Names below ``path``, which must exist, in order; ``watch`` tells once when there are others."""
        event = self._fired if watch else None
        return sorted(await self._ask(lambda client: client.get_children_async(path, watch=event), absent=path))

    async def names(self, path: str) -> list[str]:
        """As ``children``, but none below a node that is not there."""
        try:
            found: list[str] = await self._ask(lambda client: client.get_children_async(path))
        except NoNodeError:
            return []
        return found

    async def create(self, path: str, data: bytes, *, ephemeral: bool = False) -> bool:
        """Makes the node; false if it exists. Its parent must exist."""
        _check_size(path, data)
        try:
            acl = self._acl(path)
            await self._ask(lambda client: client.create_async(path, data, acl, ephemeral=ephemeral), absent=path)
        except NodeExistsError:
            return False
        return True

    async def create_next(self, path: str, data: bytes) -> None:
        """Makes an ephemeral node whose name is the last part of ``path`` with a number that only grows."""
        _check_size(path, data)
        acl = self._acl(path)
        await self._ask(lambda client: client.create_async(path, data, acl, ephemeral=True, sequence=True), absent=path)

    async def ensure(self, path: str) -> None:
        """Makes the node and its parents where they are missing."""
        steps = path.split("/")[1:]
        missing: list[str] = []
        for count in range(len(steps), 0, -1):
            above = "/" + "/".join(steps[:count])
            if await self._exists(above):
                break
            missing.append(above)
        for above in reversed(missing):
            await self.create(above, b"")

    async def _exists(self, path: str) -> bool:
        return await self._ask(lambda client: client.exists_async(path)) is not None

    async def protect(self, path: str) -> bool:
        """Gives the node the access list that it would be made with now; whether it had another, or has gone."""
        wanted = self._acl(path)
        try:
            found, stat = await self._ask(lambda client: client.get_acls_async(path))
            if set(found) == set(wanted):
                return False
            await self._ask(lambda client: client.set_acls_async(path, wanted, stat.aversion))
        except (NoNodeError, BadVersionError):
            return True
        return True

    def _acl(self, path: str) -> list[ACL]:
        return [_entry(grant, *who) for grant, who in self._access.entries(path)]

    async def set(self, path: str, data: bytes, version: int) -> None:
        """Replaces the data of that version.

        Raises:
            Conflict: another version, or no node.
        """
        _check_size(path, data)
        try:
            await self._ask(lambda client: client.set_async(path, data, version=version))
        except (BadVersionError, NoNodeError) as e:
            raise Conflict(f"znode {path} has changed", path=path) from e

    async def delete(self, path: str, version: int = -1) -> bool:
        """Removes the node; false if there is none, or one of another version."""
        try:
            await self._ask(lambda client: client.delete_async(path, version=version))
        except (BadVersionError, NoNodeError):
            return False
        return True

    async def commit(self, *parts: Part) -> None:
        """All parts or none.

        Raises:
            Conflict: a part's condition did not hold; ``details["part"]`` is its index.
        """
        _check_size(parts[0].path, b"".join(part.data for part in parts if isinstance(part, Create | Set)))
        results = await self._ask(lambda client: _transaction(client, parts, self._acl).commit_async())
        failed = [(index, result) for index, result in enumerate(results) if isinstance(result, Exception)]
        if not failed:
            return
        index, error = next(
            (f for f in failed if not isinstance(f[1], RolledBackError | RuntimeInconsistency)), failed[0]
        )
        if isinstance(error, NoAuthError):
            raise self._translated(error)
        raise Conflict(f"znodes have changed: {parts[index].path}", reason=type(error).__name__, part=index)

    def _fired(self, event: Any) -> None:
        # kazoo's thread. One and the same bound method for all nodes: kazoo keeps watchers in sets, so reading a node
        # again before it changed adds nothing.
        self._hop(self._on_watch, event.path or "")

    async def _ask(self, call: Callable[[Any], Any], *, absent: str | None = None) -> Any:
        """One call's result. Its own outcomes (no node, exists, bad version) pass through; ``absent`` names the path
        whose absence is none of them."""
        assert self._loop is not None
        if self._client is None:
            raise PeerUnavailable("the connection to ZooKeeper is closed", address=self.address)
        future: asyncio.Future[Any] = self._loop.create_future()
        call(self._client).rawlink(lambda result: self._hop(_settle, future, result))
        try:
            async with asyncio.timeout(self._call_timeout_s):
                return await future
        except TimeoutError as e:
            raise DeadlineExceeded(f"ZooKeeper at {self.address} took over {self._call_timeout_s:g} s") from e
        except NoNodeError as e:
            if absent is None:
                raise
            raise PeerUnavailable(f"znode {absent} or its parent has gone", path=absent) from e
        except (NodeExistsError, BadVersionError):
            raise
        except KazooException as e:
            raise self._translated(e) from e

    def _translated(self, error: KazooException) -> ForebayError:
        if isinstance(error, (NoAuthError, AuthFailedError)):
            return PermissionDenied("ZooKeeper refuses: the access list of a znode excludes us", address=self.address)
        return PeerUnavailable(f"ZooKeeper at {self.address}: {type(error).__name__}", address=self.address)


def _settle(future: asyncio.Future[Any], result: Any) -> None:
    if future.done():
        return  # the caller's time ran out
    if result.exception is None:
        future.set_result(result.value)
    else:
        future.set_exception(result.exception)


def _entry(grant: Grant, scheme: str, user: str, password: str) -> ACL:
    if scheme == "world":
        return make_acl("world", "anyone", read=True, create=grant == "enter", all=grant == "all")
    return make_digest_acl(user, password, all=True)


def _transaction(client: Any, parts: Sequence[Part], acl: Callable[[str], list[ACL]]) -> Any:
    transaction = client.transaction()
    for part in parts:
        match part:
            case Check(path, version):
                transaction.check(path, version)
            case Create(path, data, ephemeral):
                transaction.create(path, data, acl(path), ephemeral=ephemeral)
            case Set(path, data, version):
                transaction.set_data(path, data, version=version)
            case Delete(path, version):
                transaction.delete(path, version=version)
    return transaction


def _check_size(path: str, data: bytes) -> None:
    if len(data) > ZNODE_BYTES_MAX:
        raise InvalidRequest(
            f"{len(data)} bytes are too many for the znode {path}; the limit is {ZNODE_BYTES_MAX}",
            size_bytes=len(data),
            limit_bytes=ZNODE_BYTES_MAX,
        )


def _stop(client: Any) -> None:
    try:
        client.stop()
        client.close()
    except Exception as e:  # noqa: BLE001 - kazoo raises bare exceptions when its writer is slow to end
        LOG.warning("zookeeper_client_not_stopped", reason=repr(e))
