"""Say which line of a hostfile is this machine: ``python launch/hostfile.py HOSTFILE``.

The output is the number of the line, counted from 0, and the first machine, where the ranks meet. A
line is read as in DeepSpeed, which for a bad line says no more than "bad entry". NODE_RANK gives a
machine its line if its name does not.
"""

import os
import re
import socket
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    """Print the answer, or one line that says why there is none."""
    try:
        hosts = read_hosts(Path(sys.argv[1]))
        rank = node_rank(hosts, socket.gethostname(), given=os.environ.get("NODE_RANK"))
    except ValueError as error:
        print(f"error: {sys.argv[1]}{error}", file=sys.stderr)
        return 2
    print(rank, hosts[0])
    return 0


def read_hosts(path: Path) -> list[str]:
    """Return the names of a hostfile's machines, line by line, without the user before an @.

    Raises:
        ValueError: DeepSpeed would refuse a line, or read it as no machine; line and reason.
    """
    if not path.is_file():
        raise ValueError(": no such file")
    hosts: dict[str, str] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            entry = line.decode().removeprefix("\ufeff").strip()
        except UnicodeDecodeError:
            raise ValueError(f" line {number}: not UTF-8") from None
        if not entry or entry.startswith("#"):
            continue
        match = re.match(r"(\S+)\s+slots=(\d+)", entry)
        if match is None:
            raise ValueError(f" line {number}: {entry[:200]!r} is not `NAME slots=GPUS`")
        name, slots = match.groups()
        if int(slots) == 0:
            raise ValueError(f" line {number}: {name!r} has no slots: leave the line out")
        if name in hosts:
            raise ValueError(f" line {number}: {name!r} is named a second time")
        hosts[name] = name.rpartition("@")[2]
    if not hosts:
        raise ValueError(": it names no machine; a line is `NAME slots=GPUS`")
    return list(hosts.values())


def node_rank(hosts: list[str], own: str, *, given: str | None = None) -> int:
    """Return the index in `hosts` of this machine, whose name is `own`; or the `given` one.

    A full name and a short one fit each other if their first parts are equal. If no name fits, the
    host with an address of this machine counts.

    Raises:
        ValueError: no host is this machine, or several may be.
    """
    if given:
        if not given.isdecimal() or int(given) >= len(hosts):
            raise ValueError(f" has machines 0 to {len(hosts) - 1}, but NODE_RANK is {given}")
        return int(given)
    for is_same in (_same_name, _same_short_name, _same_address):
        fitting = [rank for rank, host in enumerate(hosts) if is_same(host, own)]
        if len(fitting) > 1:
            names = ", ".join(repr(hosts[rank]) for rank in fitting)
            raise ValueError(f": {own} may be any of {names}: set NODE_RANK")
        if fitting:
            return fitting[0]
    raise ValueError(f" does not name {own}: add it, or set NODE_RANK")


def _same_name(host: str, own: str) -> bool:
    return host.lower() == own.lower()


def _same_short_name(host: str, own: str) -> bool:
    is_one_short = "." not in host or "." not in own
    return is_one_short and host.partition(".")[0].lower() == own.partition(".")[0].lower()


def _same_address(host: str, own: str) -> bool:
    """Return whether this machine has an address of `host`; the loopback does not count."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return False
    return any(_is_own(family, address) for family, _, _, _, address in found)


def _is_own(family: int, address: Any) -> bool:
    if str(address[0]).startswith("127.") or address[0] == "::1":
        return False
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
