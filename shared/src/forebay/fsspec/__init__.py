"""``forebay://`` for everything that reads through fsspec: pandas, PyArrow, tar and shard readers. Needs the extra
``forebay[fsspec]``."""

from forebay.fsspec.filesystem import ForebayFileSystem

__all__ = ["ForebayFileSystem"]
