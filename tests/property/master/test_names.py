"""Paths, mounts and pages against plain models."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from forebay.contracts import Mount
from forebay.errors import InvalidRequest
from forebay_master.entries import FILE, Row
from forebay_master.namespace import MountTable, ancestors, join, normalise
from forebay_master.pages import PageRequest, build_page
from forebay_master.paging import Cursor, directory_tag, make_token, parse_token

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda name: name not in {".", ".."}
)
SHORT = st.sampled_from(["a", "b", "ab", "c"])
PATHS = st.lists(SHORT, max_size=4).map(lambda names: "/" + "/".join(names))


def mount(path: str) -> Mount:
    return Mount(mount_id=f"m{path}", generation=1, path=path, ufs_uri="file:///x", ufs_id="0" * 32)


def row(name: str) -> Row:
    return Row(name, FILE, 1, 0, 0o444, "f")


@given(st.lists(NAMES, max_size=8))
def test_names_joined_are_a_normal_path(names: list[str]) -> None:
    path = "/" + "/".join(names)
    assert normalise(path) == path
    assert normalise(path + "/" if names else path) == path


@given(st.text(max_size=40))
def test_any_text_is_a_path_in_one_spelling_or_refused(text: str) -> None:
    try:
        path = normalise(text)
    except InvalidRequest:
        return
    assert normalise(path) == path
    parts = path[1:].split("/") if path != "/" else []
    assert all(part not in {"", ".", ".."} and "\0" not in part for part in parts)
    assert text in {path, f"{path}/"}


@given(st.sets(PATHS, max_size=8), PATHS)
def test_resolving_agrees_with_trying_every_mount(mounts: set[str], path: str) -> None:
    table = MountTable(tuple(mount(m) for m in mounts))
    table.validate()
    owners = [m for m in mounts if m in {"/", path} or path.startswith(f"{m}/")]
    found = table.resolve(path)
    if not owners:
        assert found is None
        return
    assert found is not None
    owner, key = found
    assert owner.path == max(owners, key=len)
    assert join(owner.path, key) == path if key else owner.path == path


@given(st.sets(PATHS, max_size=8), PATHS)
def test_a_directory_shows_exactly_the_names_that_lead_to_mounts(mounts: set[str], path: str) -> None:
    table = MountTable(tuple(mount(m) for m in mounts))
    wanted = {m for m in mounts for above in ancestors(m) if above == path and m != "/"}
    leading = {m.removeprefix(path if path == "/" else f"{path}/").split("/")[0] for m in wanted}
    assert table.place(path).below == tuple(sorted(leading))


@given(st.sets(NAMES, max_size=30), st.sets(NAMES, max_size=6), st.integers(1, 10))
def test_pages_put_together_are_the_whole_directory_in_byte_order(
    names: set[str], mounted: set[str], limit: int
) -> None:
    table = MountTable((mount("/"), *(mount(f"/{name}") for name in mounted)))
    rows = [row(name) for name in sorted(names)]
    place = table.place("/")
    tag = directory_tag("/", place.mount)
    seen: list[str] = []
    token: str | None = None
    for _ in range(len(names | mounted) // limit + 2):
        request = PageRequest(place, tag, parse_token(tag, token), limit)
        behind = [r for r in rows if r.name > request.after][: request.rows_wanted]
        page = build_page(request, behind, synced_at_s=1.0, now_s=1.0)
        assert len(page.entries) <= limit
        seen += [entry.name for entry in page.entries]
        assert all((entry.kind == "dir") == (entry.name in mounted) for entry in page.entries)
        token = page.next_page_token
        if token is None:
            break
    assert seen == sorted(names | mounted, key=lambda name: name.encode())


@given(NAMES, st.floats(allow_nan=False, allow_infinity=False), PATHS)
def test_any_cursor_travels_in_a_token(name: str, begun_with_s: float, path: str) -> None:
    tag = directory_tag(path, None)
    assert parse_token(tag, make_token(tag, Cursor(begun_with_s, name))) == Cursor(begun_with_s, name)


@given(st.text(max_size=60))
def test_any_text_as_a_token_is_read_or_refused(token: str) -> None:
    with contextlib.suppress(InvalidRequest):
        parse_token(directory_tag("/", None), token)
