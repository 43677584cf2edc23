"""Refuses every connection that leaves this machine; the tests put this folder first on PYTHONPATH.

Python imports `sitecustomize` at start, so kernels, their threads and their Python subprocesses all carry the block.
It is an audit hook (PEP 578): it sees every use of Python's sockets and cannot be undone, but a C library that opens
sockets of its own stays unseen. The error is an OSError, which is what a machine without a network gives.
"""
import importlib.util
import os
import socket
import sys
from importlib.machinery import PathFinder
from ipaddress import ip_address

CONNECTS = {"socket.connect", "socket.sendto", "socket.sendmsg"}  # arguments: socket, address
RESOLVES = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}  # arguments: host, …
LOCAL_NAMES = {"", "localhost", socket.gethostname()}


def stays_here(host):
    """Whether a host name or address (str, bytes or None) means this machine."""
    name = os.fsdecode(host or "").split("%")[0]
    try:
        address = ip_address(name)
    except ValueError:
        return name in LOCAL_NAMES
    return address.is_loopback or address.is_unspecified


def refuse(event, arguments):
    if event in CONNECTS:
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # a str or bytes address is a Unix socket
    elif event in RESOLVES:
        host = arguments[0]
    else:
        return
    if not stays_here(host):
        raise ConnectionRefusedError(f"the tests' network block refused {event} to {host!r}: lessons must run offline")


sys.addaudithook(refuse)

# This file hides any other sitecustomize (some systems have one): run that too.
_here = os.path.dirname(os.path.abspath(__file__))
_hidden = PathFinder.find_spec("sitecustomize", [p for p in sys.path if os.path.abspath(p) != _here])
if _hidden:
    _hidden.loader.exec_module(importlib.util.module_from_spec(_hidden))
