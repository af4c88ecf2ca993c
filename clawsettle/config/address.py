"""Where a server listens: ``host:port``, with an IPv6 host in brackets."""

import ipaddress
import re
from typing import Self

import attrs

_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[^\]]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})")
_PORT_MAX = 65_535


@attrs.frozen
class Address:
    """A host (IPv6 without brackets) and a TCP port; port 0 lets the system choose one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``host:port`` or ``[ipv6]:port``; surrounding blanks are dropped.

        Raises: ValueError if the text is no such address or the port is above 65535.
        Source: new.
        """
        found = _ADDRESS.fullmatch(text.strip())
        if found is None or int(found["port"]) > _PORT_MAX:
            raise ValueError("not a host:port address")
        if found["ipv6"] is None:
            return cls(found["host"], int(found["port"]))
        return cls(str(ipaddress.IPv6Address(found["ipv6"])), int(found["port"]))

    @property
    def url(self) -> str:
        """The address as an ``http://`` URL without a path."""
        return f"http://{self}"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
