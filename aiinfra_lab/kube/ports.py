"""TCP ports of this machine that nobody else is given.

Linux lets a socket listen beside one that is bound and does not listen, if both have
SO_REUSEADDR, as Go's sockets have. The kernel then gives the port to no other program: not before
the server's first start, and not between two starts. Elsewhere a port may be lost, and the start
is tried again with another one.
"""

from __future__ import annotations

import hashlib
import socket
import sys

from aiinfra_lab.errors import InputError

HOST = "127.0.0.1"
_RESERVES = sys.platform == "linux"
#: Below Linux's and macOS's own range for connections, so that none of these is in the way.
JOB_PORTS = range(20_000, 30_000)


def job_port(uid: str) -> int:
    """The port of 20000 to 29999 that the pods of one Job meet at.

    The pods of ``local`` share this machine's ports, and torch's store listens on all addresses
    whatever it is told, so two Jobs of one spec need two ports. Every pod of a Job can work out
    the same one from the uid of its owner.
    """
    digest = hashlib.sha256(uid.encode()).digest()
    return JOB_PORTS[int.from_bytes(digest[:8], "big") % len(JOB_PORTS)]


class ReservedPort:
    """A port of 127.0.0.1, ours until ``close`` or the end of this object.

    Parameters
    ----------
    number : int
        The port; 0 takes a free one.
    what : str
        Whose port it is, for the error.

    Raises
    ------
    InputError
        The port is no port, or another program has it.
    """

    def __init__(self, number: int = 0, *, what: str = "the server") -> None:
        if not 0 <= number <= 65535:
            raise InputError(f"the port is {number}", needed="0 (any free one) to 65535")
        holder = socket.socket()
        try:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind((HOST, number))
            if not _RESERVES:
                # Where such a socket would be in the server's way, it can only look.
                holder.listen()
        except OSError as error:
            holder.close()
            raise InputError(
                f"{what} cannot use port {number}",
                found=error.strerror,
                fix="End the program that has it, or choose another port.",
            ) from None
        self.number: int = holder.getsockname()[1]
        self._holder = holder
        if not _RESERVES:
            holder.close()

    def close(self) -> None:
        """Give the port back; may be called again."""
        self._holder.close()
