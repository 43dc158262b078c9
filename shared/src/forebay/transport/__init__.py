"""HTTP/2 between the parts: `HttpServer` for any ``aiohttp.web.Application``, `HttpClient` for RPCs and block reads.

How the pieces meet, from the wire up: ``frames`` (bytes), ``reader`` (bytes to frames), ``fields`` and ``heads``
(header blocks to requests and replies), ``flow``, ``streams``, ``budget`` (windows, states, floods), ``outgoing``,
``engine`` and ``roles`` (all of it together, without I/O); ``connection`` puts an engine on a socket; ``adapter``,
``sniff`` and ``server`` make it a server; ``channel``, ``gate``, ``pool`` and ``client`` make it a client; ``observe``
measures both; ``app`` is what every service's application begins with.
"""

from forebay.transport.adapter import flushed
from forebay.transport.client import DataReply, HttpClient, Reply
from forebay.transport.limits import Limits
from forebay.transport.server import HttpServer

__all__ = ["DataReply", "HttpClient", "HttpServer", "Limits", "Reply", "flushed"]
