"""What a record may not change from one wire version to the next, for the two must read each other.

``golden/before`` has the golden files of the version before, as they were (from version 2 on). A field of theirs stays,
with its type, for one version more at least; a new one has a default.
"""

from __future__ import annotations

from pathlib import Path

import orjson

from forebay.contracts import Record, decode_newer, encode
from forebay.errors import InvalidRequest

BEFORE = Path(__file__).parent / "golden" / "before"


def problems(now: Record, before: bytes) -> list[str]:
    """Why a build with this record and one that wrote ``before`` do not work together, a line each."""
    found = []
    name = type(now).__name__
    try:
        decode_newer(type(now), before)
    except InvalidRequest as error:
        found.append(f"{name} of the version before cannot be read: {error.message}")
    return found + [f"{name}.{line}" for line in _missed(orjson.loads(before), orjson.loads(encode(now)), "")]


def _missed(before: object, now: object, place: str) -> list[str]:
    """What the older build wrote, and so may need, that the newer one does not write in the same form."""
    if before is None or now is None:
        return []
    if type(before) is not type(now) and not {type(before), type(now)} <= {int, float}:
        return [f"{place} is another type"]
    if isinstance(before, dict) and isinstance(now, dict):
        below = [(f"{place}.{name}".lstrip("."), name) for name in before]
        gone = [f"{path} went" for path, name in below if name not in now]
        return gone + [line for path, name in below if name in now for line in _missed(before[name], now[name], path)]
    if isinstance(before, list) and isinstance(now, list) and before and now:
        return _missed(before[0], now[0], f"{place}[]")
    return []
