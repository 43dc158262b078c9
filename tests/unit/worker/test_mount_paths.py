"""Which mounts a path of the namespace means."""

from __future__ import annotations

import pytest

from forebay.contracts import Mount, MountsReply, UfsOptions
from forebay.ufs import AllowedRoots, UfsUri
from forebay_worker.mounts import MountBook


def mount(path: str) -> Mount:
    uri = UfsUri.parse("file:///data")
    return Mount(
        mount_id=path, generation=1, path=path, ufs_uri=str(uri), ufs_id=uri.ufs_id(UfsOptions()), block_size=4 << 20
    )


def below(paths: list[str], wanted: str) -> tuple[set[str], tuple[str, str] | None]:
    book = MountBook("c", AllowedRoots.parse(["file:///data"]))
    book.take(MountsReply(cluster_id="c", revision=1, mounts=tuple(map(mount, paths))))
    whole, inside = book.below(wanted)
    return {m.mount.path for m in whole}, None if inside is None else (inside[0].mount.path, inside[1])


@pytest.mark.parametrize(
    ("paths", "wanted", "expected"),
    [
        (["/"], "/", ({"/"}, None)),
        (["/"], "/a/b", (set(), ("/", "a/b"))),
        (["/a"], "/", ({"/a"}, None)),
        (["/a"], "/a", ({"/a"}, None)),
        (["/a"], "/a/", ({"/a"}, None)),
        (["/a"], "/ab", (set(), None)),
        (["/ab"], "/a", (set(), None)),
        (["/a", "/a/b"], "/a", ({"/a", "/a/b"}, None)),
        (["/a", "/a/b"], "/a/b/c", (set(), ("/a/b", "c"))),
        (["/", "/a/b"], "/a", ({"/a/b"}, ("/", "a"))),
    ],
)
def test_a_path_means_the_mounts_below_it_and_the_one_it_lies_in(
    paths: list[str], wanted: str, expected: tuple[set[str], tuple[str, str] | None]
) -> None:
    assert below(paths, wanted) == expected
