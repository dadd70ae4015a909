"""Names of hosts that a server answers to."""

from __future__ import annotations

import pytest
from charrnn_runtime import UsageError
from charrnn_server.hosts import HostRule, split_host
from charrnn_server.options import ServerOptions


@pytest.mark.parametrize(
    ("allowed", "host", "passes"),
    [
        ("model.example", "model.example", True),
        ("model.example", "MODEL.example:8080", True),
        ("model.example", "other.example", False),
        ("model.example", "a.model.example", False),
        ("model.example:8080", "model.example:8080", True),
        ("model.example:8080", "model.example", False),
        ("model.example:8080", "model.example:81", False),
        ("model.example:443", "model.example", True),
        ("MODEL.example", "model.example", True),
        ("10.1.2.3", "10.1.2.3:99", True),
        ("10.1.2.3:98", "10.1.2.3:99", False),
        ("fe80::1", "[fe80::1]:8000", True),
        ("[fe80::1]", "[fe80::1]", True),
        ("[fe80::1]:8000", "[fe80::1]:8000", True),
        ("[fe80::1]:8000", "[fe80::1]:8001", False),
        ("*.example.org", "a.b.example.org", True),
        ("*.example.org", "example.org", False),
        ("*.example.org", "evilexample.org", False),
        ("*.example.org:80", "a.example.org:81", False),
        ("*", "anything.example:1234", True),
        ("*:1234", "anything.example:1234", True),
        ("*:1234", "anything.example:1235", False),
        ("*", "user@anything.example", False),
        ("*", "", False),
    ],
)
def test_names_of_the_host(allowed: str, host: str, passes: bool) -> None:
    parts = split_host(host)
    assert (parts is not None and HostRule.parse(allowed).allows(*parts)) == passes


@pytest.mark.parametrize("text", ["https://a.example", "a.example/x", "a.example:port", "a*b", "*a", "**", "a@b", ""])
def test_names_of_another_form(text: str) -> None:
    with pytest.raises(UsageError, match="allowed host"):
        ServerOptions(allow_host=(text,))
