"""Clients of VNFs: each in a network namespace of its own, on the bridge that the VNFs are on."""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
import subprocess
from collections.abc import Callable
from typing import IO

from mount import Vnf

_numbers = itertools.count()


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout


class Client:
    """A network namespace with one interface, eth0.

    Attributes:
        name: its network namespace (ip-netns(8)).
        address: its own, beside those of the VNFs.
    """

    def __init__(self, vnf: Vnf) -> None:
        number = next(_numbers)
        self.name = f"nfiolab{os.getpid()}x{number}"
        link = f"nl{os.getpid()}x{number}"
        bridge = json.loads(_ip("-j", "route", "get", vnf.address))[0]["dev"]
        described = json.loads(_ip("-j", "-4", "address", "show", "dev", bridge))[0]["addr_info"][0]
        network = ipaddress.ip_interface(f"{described['local']}/{described['prefixlen']}").network
        self.gateway: str = described["local"]
        self.network = str(network)
        # VNFs are given the lowest addresses that are free.
        self.address = str(network.broadcast_address - 10 - number % 200)
        self._processes: list[subprocess.Popen[str]] = []
        _ip("netns", "add", self.name)
        try:
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
            _ip("link", "set", link, "master", bridge, "up")
            self.ip("link", "set", "lo", "up")
            self.ip("link", "set", "eth0", "up")
            self.ip("address", "add", f"{self.address}/{network.prefixlen}", "dev", "eth0")
        except BaseException:
            self.close()
            raise

    def ip(self, *arguments: str) -> str:
        """ip(8) in it: ``client.ip("route", "add", "192.0.2.0/24", "via", vnf.address)``."""
        return _ip("-n", self.name, *arguments)

    def run(self, *command: str, check: bool = True, timeout: float = 20) -> str:
        """Output (stdout) of one of this machine's programs, run in it."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *command],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def succeeds(self, *command: str, timeout: float = 20) -> bool:
        """Whether one of this machine's programs, run in it, ends with exit status 0."""
        command = ("ip", "netns", "exec", self.name, *command)
        return subprocess.run(command, capture_output=True, timeout=timeout, check=False).returncode == 0

    def pings(self, address: str, count: int = 1) -> bool:
        return self.succeeds("ping", "-q", "-c", str(count), "-i", "0.05", "-W", "1", address)

    def begin(self, *command: str, stdin: IO[str] | int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        """A program that goes on in it until it is closed; its output is in ``stdout``."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, *command],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait(10)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        _ip("netns", "delete", self.name)


NewClient = Callable[[Vnf], Client]
