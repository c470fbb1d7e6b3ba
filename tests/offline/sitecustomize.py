"""Refuses sockets that leave this machine.

`tests/conftest.py` calls it, and puts this folder on PYTHONPATH: Python imports a module of this
name at its start, so processes that the tests start are blocked, too.
"""

import ipaddress
import socket


class NetworkBlocked(RuntimeError):
    """Not an OSError: code that retries on, or lives with, a failed connection must not hide it."""


def _is_local(host) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    if not host or host in ("localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _refuse(host):
    raise NetworkBlocked(f"tests must not use the network: a connection to '{host}' was asked for")


def block():
    """Patches `socket`; calling it again does nothing."""
    if getattr(socket, "blocked_by_tests", False):
        return
    socket.blocked_by_tests = True
    getaddrinfo = socket.getaddrinfo

    def local_getaddrinfo(host, *args, **kwargs):
        return getaddrinfo(host, *args, **kwargs) if _is_local(host) else _refuse(host)

    def local_only(method):
        def call(self, address, *args):
            if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
                _refuse(address[0])
            return method(self, address, *args)

        return call

    def local_name(function):
        return lambda host, *args: function(host, *args) if _is_local(host) else _refuse(host)

    def local_send(self, data, *rest):
        # The address comes last, behind flags if there are any.
        address = rest[-1]
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
            _refuse(address[0])
        return sendto(self, data, *rest)

    sendto = socket.socket.sendto
    socket.socket.sendto = local_send
    socket.gethostbyname = local_name(socket.gethostbyname)
    socket.gethostbyname_ex = local_name(socket.gethostbyname_ex)
    socket.getaddrinfo = local_getaddrinfo
    socket.socket.connect = local_only(socket.socket.connect)
    socket.socket.connect_ex = local_only(socket.socket.connect_ex)


block()
