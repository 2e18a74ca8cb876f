"""Which names the server answers to: a page that rebinds its own name to us is turned away.

A browser puts the page's own name into `Host`, so a name that is not ours betrays it. Addresses
cannot be rebound.
"""

import ipaddress
import re
import socket

WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104
LOOPBACK_NAME = "localhost"

_AUTHORITY = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9._-]{1,253}))(?::[0-9]{1,5})?",
    re.ASCII,
)


def host_of(authority: str) -> str | None:
    """The host of `host[:port]`, lower case; None when it is not of that form.

    Addresses come in their shortest form, without brackets.
    """
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return None
    if match["six"] is not None:
        address = _address(match["six"])
        return str(address) if isinstance(address, ipaddress.IPv6Address) else None
    return match["name"].lower().removesuffix(".") or None


def is_loopback(host: str) -> bool:
    """Whether a host to listen on can be reached from this machine alone."""
    if (address := _address(host)) is not None:
        return address.is_loopback
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(it[4][0]).split("%")[0]).is_loopback for it in found)


class AllowedHosts:
    """Loopback, the name that was bound, and what the user added."""

    def __init__(self, bound: str, added: tuple[str, ...] = ()) -> None:
        own = {socket.gethostname().lower()} if bound in WILDCARDS else {bound.lower()}
        self._names = {LOOPBACK_NAME, *own, *(name.lower() for name in added)}
        self._any_address = bound in WILDCARDS

    def allows(self, host: str) -> bool:
        """Whether a request for this host (as `host_of` gives it) is meant for us."""
        if host in self._names:
            return True
        address = _address(host)
        return address is not None and (self._any_address or address.is_loopback)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
