"""Names under which the server may be addressed, as ``Host`` headers and ``--allow-host`` spell them."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple
from urllib.parse import urlsplit

from charrnn_runtime import UsageError


def split_host(text: str) -> tuple[str, int | None] | None:
    """Name (lower case, an IPv6 address without brackets) and port of ``name:port``; None if it has another form."""
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
    except ValueError:
        return None
    if parts.netloc != text or "@" in text or not parts.hostname:
        return None
    return parts.hostname, port


class HostRule(NamedTuple):
    """One allowed name.

    Attributes:
        name: a host name or address, ``*.example.org`` for every name below a domain, ``*`` for every name.
        port: the only port that is allowed with it; None for any.
    """

    name: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> HostRule:
        """The rule that ``host``, ``host:port``, ``*.domain`` or ``*`` spells.

        Raises:
            UsageError: the text has another form.
        """
        try:
            return cls(str(ipaddress.ip_address(text.strip("[]"))))  # an IPv6 address has colons of its own
        except ValueError:
            parts = split_host(text)
        if parts is None or (parts[0] != "*" and "*" in parts[0].removeprefix("*.")):
            host = urlsplit(text).netloc or "example.org"
            raise UsageError(
                f"allowed host {text!r}: write the name alone, with or without a port, such as {host}; "
                "*.example.org allows every name below a domain, and * every name"
            )
        return cls(*parts)

    def allows(self, name: str, port: int | None) -> bool:
        """Whether a ``Host`` header with this name and port matches."""
        # Clients leave out the port that belongs to http or https.
        if self.port is not None and self.port != port and not (port is None and self.port in (80, 443)):
            return False
        return self.name in ("*", name) or (self.name.startswith("*.") and name.endswith(self.name[1:]))
