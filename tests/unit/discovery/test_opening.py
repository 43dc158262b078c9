"""The registry setting."""

from __future__ import annotations

import pytest

from forebay.discovery import parse_registry_url
from forebay.discovery.opening import RegistryUrl
from forebay.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://127.0.0.1:7070", RegistryUrl("embedded", ("127.0.0.1:7070",))),
        ("http://master", RegistryUrl("embedded", ("master:80",))),
        ("http://master:7070/", RegistryUrl("embedded", ("master:7070",))),
        ("https://master:7070", RegistryUrl("embedded", ("master:7070",), tls=True)),
        ("https://master", RegistryUrl("embedded", ("master:443",), tls=True)),
        ("http://[::1]:7070", RegistryUrl("embedded", ("[::1]:7070",))),
        ("zookeeper://zk1", RegistryUrl("zookeeper", ("zk1:2181",))),
        ("zookeeper://zk1:1,zk2,[::1]:3/a/b", RegistryUrl("zookeeper", ("zk1:1", "zk2:2181", "[::1]:3"), "/a/b")),
        ("zookeeper://zk1:1/", RegistryUrl("zookeeper", ("zk1:1",))),
        ("zookeeper://zk1//a//b/", RegistryUrl("zookeeper", ("zk1:2181",), "/a/b")),
    ],
)
def test_a_registry_url_is_understood(text: str, expected: RegistryUrl) -> None:
    assert parse_registry_url(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:7070",
        "ftp://h:1",
        "http://",
        "http://:7070",
        "http://h:7070/path",
        "http://h:0",
        "http://h:65536",
        "http://h:port",
        "http://user@h:1",
        "http://h:1?x=1",
        "zookeeper://",
        "zookeeper://a:1,,b:2",
        "zookeeper://a:1/../b",
        "zookeeper://[::1:2181",
    ],
)
def test_a_registry_url_that_is_none_is_refused_by_setting(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_registry_url(text)
    assert caught.value.setting == "registry"
