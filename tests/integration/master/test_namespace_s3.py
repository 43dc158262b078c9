"""The model of the namespace against a real S3 server, whose bucket changes behind our back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from forebay.contracts import UfsOptions
from forebay.errors import UfsUnavailable
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.testing.s3 import REGION, S3Server, credentials_env
from forebay.ufs import PAGE_NAMES_MAX, Ufs, UfsEntry, UfsPage, UfsUri, open_ufs
from tests.property.master.test_namespace_model import DIRECTORIES, KEYS, MAX_AGE_S, PATHS, Run, Step
from tests.unit.master.kit import ROOT, ListedUfs, kit

pytestmark = [pytest.mark.s3, pytest.mark.slow]

STEPS = 60
PAGE_MAX = 2


class Files(dict[str, tuple[bytes, str]]):
    """What the bucket holds; what is taken out here is deleted there."""

    def __init__(self, server: S3Server, bucket: str) -> None:
        super().__init__()
        self._server, self._bucket = server, bucket

    def pop(self, key: str, *default: object) -> tuple[bytes, str]:
        """Deletes an object."""
        self._server.delete(self._bucket, key)
        return super().pop(key, (b"", ""))


class BucketUfs(ListedUfs):
    """Answers from the bucket, by the adapter; changes go past it."""

    def __init__(self, server: S3Server, bucket: str, below: Ufs) -> None:
        super().__init__(page_max=PAGE_MAX)
        self._server, self._bucket, self._below = server, bucket, below
        self._written = 0
        self.files: dict[str, tuple[bytes, str]] = Files(server, bucket)

    def write(self, key: str) -> None:
        """A new version of an object."""
        self._written += 1
        body = f"{key} {self._written}".encode()
        self.files[key] = (body, self._server.put(self._bucket, key, body).strip('"'))

    async def list_page(self, directory: str, *, token: str | None = None, limit: int = PAGE_NAMES_MAX) -> UfsPage:
        """As the bucket has it, unless told otherwise."""
        await self._obey(directory, token)
        return await self._below.list_page(directory, token=token, limit=min(limit, self.page_max))

    async def stat(self, key: str) -> UfsEntry:
        """As the bucket has it, unless told otherwise."""
        await self._obey(key, None)
        return await self._below.stat(key)


class BucketRun(Run):
    """Steps whose writes go to the bucket."""

    async def do(self, step: Step) -> None:
        if step[0] == "put":
            assert isinstance(self.k.ufs, BucketUfs)
            self.k.ufs.write(step[1])
            self.model.note(self.state())
        else:
            await super().do(step)


def steps_of(seed: int) -> list[Step]:
    """As the strategy of the model makes them, changes and looks more often than the rest."""
    rng = random.Random(seed)
    choices: list[tuple[str, list[str], list[int]]] = [
        *[("put", list(KEYS), [0])] * 3,
        ("delete", list(KEYS), [0]),
        ("wait", [""], [1, 4, 11]),
        *[("lookup", list(PATHS), [0])] * 2,
        *[("list", list(DIRECTORIES), [1, 2, 3])] * 3,
        ("fail", ["no", *DIRECTORIES], [0]),
        ("sync", [""], [0]),
    ]
    chosen = [rng.choice(choices) for _ in range(STEPS)]
    return [(what, rng.choice(names), rng.choice(numbers)) for what, names, numbers in chosen]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_answers_are_states_the_bucket_had(
    tmp_path: Path, s3_server: S3Server, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in credentials_env().items():
        monkeypatch.setenv(name, value)
    bucket = f"model-{seed}"
    s3_server.make_bucket(bucket)

    async def main() -> None:
        options = UfsOptions(endpoint=s3_server.endpoint, region=REGION, path_style=True)
        below = await open_ufs(UfsUri.parse(f"s3://{bucket}"), options, telemetry=quiet())
        try:
            async with kit(tmp_path) as k:
                k.stores[ROOT] = BucketUfs(s3_server, bucket, below)
                await k.mount("/m", max_age_s=MAX_AGE_S)
                example = BucketRun(k, (await k.feed.changes(None, 0)).cursor)
                k.ufs.fail = lambda key, token: UfsUnavailable("down") if token and key == example.failing else None
                for step in steps_of(seed):
                    await example.do(step)
        finally:
            await below.close()

    run(main(), watchdog_s=60)
