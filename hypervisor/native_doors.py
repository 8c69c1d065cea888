"""Ways for the guests through the host's own firewall.

A packet that a base chain of another table drops is gone, whatever nfio's own table says:

- Docker sets the policy of iptables' FORWARD chain to drop, and has a chain in which others may
  speak before it.
- firewalld rejects what comes from a link that is in none of its zones.

With br_netfilter, which Docker loads, both holds for traffic within the bridge too.
"""

from __future__ import annotations

import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator

from nfio.errors import HypervisorError

_TOOL_TIMEOUT_S = 10.0


class Door(ABC):
    """A firewall of the host's that may stand in the way of a bridge."""

    @abstractmethod
    def stands_open(self, bridge: str) -> bool:
        """Whether the bridge's guests get through, or the firewall is not there. Takes some 10 ms."""

    @abstractmethod
    def open(self, bridge: str) -> None:
        """Let them through. Raises HypervisorError (EIO) if that cannot be done."""

    @abstractmethod
    def close(self, bridge: str) -> None:
        """Take back what ``open`` did, wherever it did it."""


class Iptables(Door):
    """A FORWARD chain that drops what it does not know."""

    #: where it lets others in, most polite first
    _CHAINS = ("DOCKER-USER", "FORWARD")
    _COMMAND = ("iptables", "-w", "5")

    def _chain(self) -> str | None:
        """The chain to be let through by; None where nothing is dropped."""
        if shutil.which("iptables") is None:
            return None
        if "-P FORWARD DROP" not in output(*self._COMMAND, "-S", "FORWARD"):
            return None
        return next(
            chain for chain in self._CHAINS if chain == "FORWARD" or succeeds(*self._COMMAND, "-S", chain)
        )

    @staticmethod
    def _rules(bridge: str) -> Iterator[tuple[str, ...]]:
        yield "-i", bridge, "-j", "ACCEPT"
        yield "-o", bridge, "-j", "ACCEPT"

    def stands_open(self, bridge: str) -> bool:
        chain = self._chain()
        return chain is None or all(
            succeeds(*self._COMMAND, "-C", chain, *rule) for rule in self._rules(bridge)
        )

    def open(self, bridge: str) -> None:
        chain = self._chain()
        if chain is not None:
            for rule in self._rules(bridge):
                if not succeeds(*self._COMMAND, "-C", chain, *rule):
                    run(*self._COMMAND, "-I", chain, *rule)

    def close(self, bridge: str) -> None:
        if shutil.which("iptables") is not None:
            for chain in self._CHAINS:
                for rule in self._rules(bridge):
                    succeeds(*self._COMMAND, "-D", chain, *rule)


class Firewalld(Door):
    """firewalld, with its nftables backend: the bridge joins its zone ``trusted`` until a reload.

    A bridge that the administrator has put into a zone stays there.
    """

    _ZONE = "--zone=trusted"

    @staticmethod
    def _rules() -> str:
        """All of firewalld's rules: to ask firewalld itself takes thirty times as long."""
        return output("nft", "list", "table", "inet", "firewalld")

    def stands_open(self, bridge: str) -> bool:
        rules = self._rules()
        return not rules or f'"{bridge}"' in rules

    def open(self, bridge: str) -> None:
        if not self.stands_open(bridge):
            run("firewall-cmd", self._ZONE, f"--add-interface={bridge}")

    def close(self, bridge: str) -> None:
        if shutil.which("firewall-cmd") is not None and f'"{bridge}"' in self._rules():
            succeeds("firewall-cmd", self._ZONE, f"--remove-interface={bridge}")


DOORS: tuple[Door, ...] = (Iptables(), Firewalld())


def _call(command: tuple[str, ...], text: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HypervisorError(f"{command[0]}: {error}") from error


def succeeds(*command: str) -> bool:
    """Whether a program of the host's ends with 0. Raises HypervisorError (EIO) if it does not run."""
    return _call(command).returncode == 0


def output(*command: str) -> str:
    """What it says, whether it succeeds or not. Raises as ``succeeds`` does."""
    return _call(command).stdout


def run(*command: str, text: str = "") -> None:
    """Run it with a text as its input. HypervisorError (EIO) if it fails: the message is its own."""
    done = _call(command, text)
    if done.returncode:
        raise HypervisorError(f"{command[0]}: {done.stderr.strip()}")
