"""The options of the server: what is refused, and that both command lines have all of them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from charrnn_runtime import UsageError
from charrnn_server.models import load
from charrnn_server.options import ServerOptions


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"streams": 0}, "streams must be at least 1"),
        ({"queue": -1}, "queue"),
        ({"port": 70000}, "port"),
        ({"api_key": ""}, "API key"),
        ({"allow_origin": ("example.org",)}, "allowed origin 'example.org'"),
        ({"host": "0.0.0.0"}, "CHARRNN_API_KEY"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        ServerOptions(**options)


def test_a_key_or_a_word_opens_the_server() -> None:
    for host, own in (("0.0.0.0", set()), ("10.1.2.3", {"10.1.2.3"}), ("::1", set())):
        rules = ServerOptions(host=host, api_key="x").host_rules
        assert {rule.name for rule in rules} == {"localhost", "127.0.0.1", "::1", *own}
    assert ServerOptions(host="10.1.2.3", public=True).api_key is None
    with pytest.raises(UsageError, match="at least one"):
        load([], ServerOptions())


def test_settings_out_of_range_are_told_by_name() -> None:
    for field in fields(ServerOptions):
        if field.type == "int":
            with pytest.raises(UsageError, match=f"^{field.name} must be"):
                ServerOptions(**{field.name: -1})  # type: ignore[arg-type]
