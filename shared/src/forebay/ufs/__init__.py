"""Under stores: where the data comes from. One Protocol (``Ufs``), S3 and files behind it, and what may be touched."""

from forebay.ufs.base import (
    PAGE_NAMES_MAX,
    Credentials,
    ListsWhole,
    TakesWhole,
    Ufs,
    UfsDir,
    UfsEntry,
    UfsFile,
    UfsLimits,
    UfsPage,
    lists_whole,
    takes_whole,
)
from forebay.ufs.names import check_key, is_file_name
from forebay.ufs.opening import check_listable, explained, open_ufs
from forebay.ufs.roots import AllowedRoot, AllowedRoots
from forebay.ufs.uri import UfsUri, normal_endpoint

__all__ = [
    "PAGE_NAMES_MAX",
    "AllowedRoot",
    "AllowedRoots",
    "Credentials",
    "ListsWhole",
    "TakesWhole",
    "Ufs",
    "UfsDir",
    "UfsEntry",
    "UfsFile",
    "UfsLimits",
    "UfsPage",
    "UfsUri",
    "check_key",
    "check_listable",
    "explained",
    "is_file_name",
    "lists_whole",
    "normal_endpoint",
    "open_ufs",
    "takes_whole",
]
