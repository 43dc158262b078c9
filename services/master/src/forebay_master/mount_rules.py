"""What may be mounted where, and what of a mount may be changed. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from forebay.contracts import Mount, MountRequest
from forebay.errors import Conflict, InvalidRequest
from forebay.ufs import UfsUri
from forebay_master.namespace import MountTable, ancestors

CHANGEABLE = ("read_only", "block_size", "replicas", "max_age_s", "rules", "pin", "ttl_s", "quota_bytes")
"""What ``PATCH /v1/mounts/{id}`` takes: where data come from is the mount itself."""


def check_new(table: MountTable, wanted: MountRequest) -> None:
    """Passes if a source may be mounted where ``wanted`` says, going by the table alone.

    Raises:
        Conflict: the path is taken, the same source is mounted elsewhere, or one of a mount and a mount inside it would
            show what the other does; ``details["reason"]`` is ``path_taken``, ``mounted_twice`` or ``into_itself``.
    """
    standing = table.at(wanted.path)
    if standing is not None:
        raise Conflict(
            "something else is mounted there", reason="path_taken", path=wanted.path, mount_id=standing.mount_id
        )
    for mount in table.mounts:
        if not _is_same_store(mount, wanted):
            continue
        if mount.ufs_uri == wanted.ufs_uri:
            raise Conflict(
                f"this source is mounted at {mount.path} already",
                reason="mounted_twice",
                path=mount.path,
                mount_id=mount.mount_id,
            )
        if _are_nested(mount.path, wanted.path) and _overlap(mount.ufs_uri, wanted.ufs_uri):
            raise Conflict(
                f"this would mount a source into itself: {mount.path} has {mount.ufs_uri}",
                reason="into_itself",
                path=mount.path,
                mount_id=mount.mount_id,
            )


def changed_request(mount: Mount, changes: object) -> MountRequest:
    """What ``mount`` would be asked for as, with ``changes`` (a JSON object).

    Raises:
        InvalidRequest: not an object, a field that cannot be changed, an impossible value, or ``read_only: false``.
    """
    if not isinstance(changes, Mapping):
        raise InvalidRequest("the body is not a JSON object")
    fixed = [name for name in changes if name not in CHANGEABLE]
    if fixed:
        raise InvalidRequest(
            f"of a mount only {', '.join(CHANGEABLE)} can be changed, not {fixed[0]!r}", reason="not_changeable"
        )
    fields = {field.name: getattr(mount, field.name) for field in msgspec.structs.fields(MountRequest)}
    try:
        wanted = msgspec.convert({**msgspec.to_builtins(fields), **changes}, MountRequest)
    except msgspec.ValidationError as e:
        raise InvalidRequest(f"a change has an impossible value: {e}") from e
    check_read_only(wanted)
    return wanted


def check_read_only(wanted: MountRequest) -> None:
    """Raises ``InvalidRequest`` (``details["reason"]`` is ``read_only``) for a mount that is to be written to."""
    if not wanted.read_only:
        raise InvalidRequest(
            "a mount can only be read_only: true, for Forebay does not write to under stores",
            reason="read_only",
            path=wanted.path,
        )


def _is_same_store(mount: Mount, wanted: MountRequest) -> bool:
    return mount.ufs_id == UfsUri.parse(wanted.ufs_uri).ufs_id(wanted.options)


def _are_nested(one: str, other: str) -> bool:
    return one in ancestors(other) or other in ancestors(one)


def _overlap(one: str, other: str) -> bool:
    first, second = UfsUri.parse(one), UfsUri.parse(other)
    return first.is_within(second) or second.is_within(first)
