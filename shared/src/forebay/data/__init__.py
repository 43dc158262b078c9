"""Training data as records: where files are read from, how shards are split and shuffled, TFRecord and tar framing.

Nothing here imports a training framework; ``forebay.torch`` is a thin cover over it.
"""

from forebay.data.errors import BrokenRecord, NotOurMount
from forebay.data.order import Part, shard_order, share
from forebay.data.places import ByteSource, Files, FolderFiles, MountFiles, SdkFiles
from forebay.data.stream import Position, ShardStream, StreamOptions

__all__ = [
    "BrokenRecord",
    "ByteSource",
    "Files",
    "FolderFiles",
    "MountFiles",
    "NotOurMount",
    "Part",
    "Position",
    "SdkFiles",
    "ShardStream",
    "StreamOptions",
    "shard_order",
    "share",
]
