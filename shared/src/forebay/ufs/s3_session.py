"""The aiobotocore side of one mount: client, credentials, the address botocore's rules give, and its errors.

botocore logs requests with their signatures at DEBUG; its loggers are held at WARNING here, so that no log level of
ours lets credentials out. Its exceptions are dropped (``from None``), not chained: their texts may quote keys.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, cast
from urllib.parse import urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore import UNSIGNED
from botocore import exceptions as boto
from botocore.handlers import add_expect_header
from botocore.loaders import create_loader
from botocore.utils import parse_timestamp

from forebay.contracts import UfsOptions
from forebay.errors import ConfigError, UfsDenied, UfsError, UfsUnavailable
from forebay.ufs.base import Credentials, UfsLimits
from forebay.ufs.s3_reply import s3_error
from forebay.ufs.s3_signing import Signer
from forebay.ufs.uri import normal_endpoint

DEFAULT_REGION = "us-east-1"
"""Signing region when nothing says another; S3-compatible servers mostly expect it."""

_PROBE_KEY = "k"

_MODELS = create_loader()
"""botocore's service models, parsed once for all mounts: a client costs 10 ms of CPU then instead of 80."""

for _name in ("botocore", "aiobotocore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


@dataclass(frozen=True)
class S3Address:
    """Where and as whom the objects of one bucket are asked for: ``base`` + "/" + key."""

    base: str
    region: str

    @cached_property
    def path(self) -> str:
        """What stands before each "/" + key in a request's target."""
        return urlsplit(self.base).path

    @cached_property
    def host(self) -> str:
        """The ``Host`` header: no default port, brackets around IPv6."""
        parts = urlsplit(self.base)
        name = parts.hostname or ""
        name = f"[{name}]" if ":" in name else name
        is_default = parts.port in {None, {"http": 80, "https": 443}.get(parts.scheme)}
        return name if is_default else f"{name}:{parts.port}"


class S3Session:
    """An open S3 client and its credentials. ``get`` signs data requests that others send."""

    def __init__(
        self, client: Any, credentials: Any, address: S3Address, *, ca_file: str | None, stack: AsyncExitStack
    ) -> None:
        self.client = client
        self.address = address
        self.ca_file = ca_file
        self._credentials = credentials
        self._signer = Signer(address.region)
        self._stack = stack

    @staticmethod
    async def open(
        bucket: str, options: UfsOptions, *, credentials: Credentials | None, limits: UfsLimits
    ) -> S3Session:
        """Finds credentials (the standard AWS chain of the profile, unless given) and the bucket's address.

        The profile "default" is the chain without a profile: environment, AWS_PROFILE, files, role.

        Raises:
            ConfigError: no such profile or CA file, a malformed endpoint.
            UfsDenied: no credentials.
        """
        async with AsyncExitStack() as stack:
            with translated(""):
                session = AioSession(profile=None if options.profile == "default" else options.profile)
                session.register_component("data_loader", _MODELS)
                parsers = session.get_component("response_parser_factory")
                parsers.set_parser_defaults(timestamp_parser=parse_time)
                ca_file = options.ca_file or session.get_config_variable("ca_bundle")
                _check_ca_file(ca_file)
                client = await stack.enter_async_context(_client(session, options, credentials, limits))
                # A PUT refused before `100 Continue` would hang, with no time-out firing.
                client.meta.events.unregister("before-call.s3", add_expect_header)
                chain = None
                if not options.anonymous:
                    chain = credentials or await session.get_credentials()
                    if chain is None:
                        raise boto.NoCredentialsError
                address = await _resolve(client, bucket)
            return S3Session(client, chain, address, ca_file=ca_file, stack=stack.pop_all())

    async def signed_headers(self, path: str) -> dict[str, str]:
        """What makes a GET of ``path`` (from the address's root) ours, ``host`` included; refreshes credentials that
        are about to end.

        Raises:
            UfsDenied: they could not be refreshed.
        """
        if self._credentials is None:
            return {"host": self.address.host}
        with translated(""):
            frozen = await _frozen(self._credentials)
        return self._signer.headers(frozen, self.address.host, path, datetime.now(UTC))

    async def close(self) -> None:
        """Closes the client's connections."""
        await self._stack.aclose()


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Trust for the data connections: ``ca_file``, else what the system trusts."""
    return ssl.create_default_context(cafile=ca_file)


def parse_time(text: Any) -> datetime:
    """ISO 8601 as listings have it; what else there is goes to botocore, whose parser was 2/3 of a listing's CPU."""
    try:
        time = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        return cast(datetime, parse_timestamp(text))
    return time if time.tzinfo else time.replace(tzinfo=UTC)


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """Bounds a client call: botocore's own time-outs do not fire in every state."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise UfsUnavailable("the S3 server did not answer in time", timeout_s=seconds) from None


@contextmanager
def translated(key: str) -> Iterator[None]:
    """The one door for botocore's exceptions."""
    try:
        yield
    except boto.ClientError as e:
        reply = e.response.get("ResponseMetadata", {})
        status, headers = reply.get("HTTPStatusCode", 0), reply.get("HTTPHeaders", {})
        code = str(e.response.get("Error", {}).get("Code", ""))
        raise s3_error(key, status, code, headers.get("x-amz-bucket-region")) from None
    except (boto.ProfileNotFound, boto.ConfigParseError, boto.ConfigNotFound) as e:
        raise ConfigError("profile", f"the AWS configuration has no such usable profile ({_kind(e)})") from None
    except _NO_CREDENTIALS as e:
        raise UfsDenied(f"no usable credentials for this profile ({_kind(e)})", key=key) from None
    except boto.SSLError:
        raise UfsError("the server's certificate is not trusted; set the mount's CA file", key=key) from None
    except (boto.HTTPClientError, boto.ConnectionError) as e:
        raise UfsUnavailable(f"the S3 server cannot be reached ({_kind(e)})", key=key) from None
    except (boto.BotoCoreError, *_UNFORESEEN) as e:
        raise UfsError(f"the request could not be made or the reply not be read ({_kind(e)})", key=key) from None


_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.InfiniteLoopConfigError,
    boto.InvalidConfigError,
    boto.SSOError,
    boto.TokenRetrievalError,
)


_UNFORESEEN = (ValueError, KeyError, TypeError, OSError)
"""What botocore lets through: replies of another shape, a credential process that fails or prints no JSON."""


def _kind(error: Exception) -> str:
    return type(error).__name__


def _check_ca_file(ca_file: str | None) -> None:
    if ca_file is None:
        return
    try:
        tls_context(ca_file)
    except OSError as e:  # ssl.SSLError is one
        raise ConfigError("ca_file", f"{ca_file} cannot be used: {e.strerror or _kind(e)}") from e


def _client(session: AioSession, options: UfsOptions, credentials: Credentials | None, limits: UfsLimits) -> Any:
    # A profile's own `s3 = addressing_style = …` counts unless the mount asks for path style.
    style = {"s3": {"addressing_style": "path"}} if options.path_style else {}
    signing = {"signature_version": UNSIGNED if options.anonymous else "s3v4"}
    config = AioConfig(
        connect_timeout=limits.connect_timeout_s,
        read_timeout=limits.silence_timeout_s,
        max_pool_connections=limits.streams_max,
        retries={"mode": "standard", "total_max_attempts": limits.attempts_max},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        **style,
        **signing,
    )
    given = {}
    if credentials is not None:
        given = {
            "aws_access_key_id": credentials.access_key,
            "aws_secret_access_key": credentials.secret_key,
            "aws_session_token": credentials.session_token,
        }
    return session.create_client(
        "s3",
        endpoint_url=normal_endpoint(options.endpoint) or None,
        region_name=options.region or session.get_config_variable("region") or DEFAULT_REGION,
        verify=options.ca_file,
        config=config,
        **given,
    )


class _Resolved(Exception):
    """Carries the address out of a request that is never sent."""


async def _resolve(client: Any, bucket: str) -> S3Address:
    """The address that botocore would send a GET to: stopped right before it leaves, so all of its rules count."""

    def stop(request: Any, **_: Any) -> None:
        raise _Resolved(request.url)

    client.meta.events.register_first("before-send.s3.GetObject", stop, unique_id="forebay-resolve")
    try:
        await client.get_object(Bucket=bucket, Key=_PROBE_KEY)
    except _Resolved as e:
        url = urlsplit(str(e.args[0]))
    finally:
        client.meta.events.unregister("before-send.s3.GetObject", stop, unique_id="forebay-resolve")
    return S3Address(f"{url.scheme}://{url.netloc}{url.path}".removesuffix(f"/{_PROBE_KEY}"), client.meta.region_name)


async def _frozen(credentials: Any) -> Any:
    if isinstance(credentials, Credentials):
        return _Frozen(credentials)
    return await credentials.get_frozen_credentials()


class _Frozen:
    """Given credentials in the shape that botocore's signer reads."""

    def __init__(self, given: Credentials) -> None:
        self.access_key = given.access_key
        self.secret_key = given.secret_key
        self.token = given.session_token
