"""Every setting of the server, documented once, and the checks of their values."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from charrnn_runtime import UsageError

from charrnn_server.hosts import HostRule


def _setting(default: Any, help: str, *, least: int = 1, most: int | None = None, variable: str | None = None) -> Any:
    """A field. If it is a whole number, it must be from ``least`` to ``most``; an environment variable can set it."""
    return field(default=default, metadata={"help": help, "least": least, "most": most, "variable": variable})


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How to serve; each field's text is its ``--help``.

    Raises:
        UsageError: a value is out of its range, or the server would be open to all by accident.
    """

    host: str = _setting("127.0.0.1", "Address to listen on.")
    port: int = _setting(8000, "Port to listen on; 0 takes a free one.", least=0, most=65535)
    api_key: str | None = _setting(
        None, "Key that clients must send (better: the variable CHARRNN_API_KEY).", variable="CHARRNN_API_KEY"
    )
    public: bool = _setting(False, "Serve beyond this machine without a key.")
    allow_host: tuple[str, ...] = _setting(
        (), "Another name under which the server may be addressed: host, host:port, *.domain, or * for any."
    )
    allow_origin: tuple[str, ...] = _setting(
        (), "Web site whose pages may call the API, such as https://example.org, or * for any."
    )
    streams: int = _setting(256, "How many texts are drawn at the same time, for each model.")
    queue: int = _setting(1024, "How many more texts may wait for their turn, for each model.", least=0)
    max_prompt: int = _setting(100_000, "Characters in the prompts of a request, or in a text to score.")
    max_tokens: int = _setting(20_000, "Characters that a request may ask for, for each text.")
    max_choices: int = _setting(32, "Texts that a request may ask for: prompts times n.")
    max_particles: int = _setting(64, "Copies of each text that a request may ask for: particles.", most=1024)
    stall: int = _setting(30, "Seconds after which a client that stops reading or sending is disconnected.")
    threads: int = _setting(1, "Threads inside an operator of the model.")

    def __post_init__(self) -> None:
        from charrnn_runtime.options import check_count  # imports numpy, which the help of a command does not need

        for setting in fields(self):
            if setting.type == "int":
                limits = {name: setting.metadata[name] for name in ("least", "most")}
                check_count(setting.name, getattr(self, setting.name), **limits)
        if self.api_key is not None and not (self.api_key and self.api_key.isascii() and self.api_key.isprintable()):
            raise UsageError("the API key must be printable ASCII and not empty")
        object.__setattr__(self, "allow_origin", tuple(map(_origin, self.allow_origin)))
        _ = self.host_rules  # raises for a name that has another form
        if not self.local and self.api_key is None and not self.public:
            raise UsageError(
                f"listening on {self.host} opens the server to other machines; "
                "set a key with the variable CHARRNN_API_KEY (or --api-key), or pass --public to serve without one"
            )

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def every_interface(self) -> bool:
        """Whether ``host`` stands for all addresses of this machine."""
        return self.host in ("", "0.0.0.0", "::")

    @property
    def host_rules(self) -> tuple[HostRule, ...]:
        """The names under which the server may be addressed.

        Raises:
            UsageError: one of ``allow_host`` has another form than those that ``HostRule.parse`` takes.
        """
        own = () if self.every_interface else (self.host,)
        return tuple(map(HostRule.parse, ("localhost", "127.0.0.1", "::1", *own, *self.allow_host)))

    @property
    def max_body(self) -> int:
        """Bytes of a request: room for the prompt with every character escaped as two ``\\uXXXX``."""
        return 65_536 + 12 * self.max_prompt

    @classmethod
    def from_command_line(cls, values: Mapping[str, Any]) -> Self:
        """The options from parsed arguments: lists in place of tuples, None or an empty string for no key.

        Raises:
            UsageError: as the class.
        """
        return cls(
            **{
                **values,
                "api_key": values["api_key"] or None,
                **{name: tuple(values[name] or ()) for name in ("allow_host", "allow_origin")},
            }
        )


def _origin(text: str) -> str:
    """An origin in the form in which browsers send it.

    Raises:
        UsageError: the text has another form.
    """
    origin = text.removesuffix("/").lower()
    if origin != "*" and (origin.count("/") != 2 or not origin.startswith(("http://", "https://"))):
        raise UsageError(f"allowed origin {text!r}: write a web site such as https://example.org, or * for any")
    return origin
