"""The client SDK: an asynchronous client, its blocking face, and what they are told."""

from forebay.balancing import LocationPolicy
from forebay.client.client import Client
from forebay.client.local import LocalBlock
from forebay.client.options import ClientOptions
from forebay.client.reader import Reader
from forebay.client.sync import SyncClient, SyncReader

__all__ = ["Client", "ClientOptions", "LocalBlock", "LocationPolicy", "Reader", "SyncClient", "SyncReader"]
