"""A host with a firewalld of its own: it is installed into a directory, and this host's rules stay."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Self

from engine import wait_until
from engine_view import output_of
from inside import InnerHost
from probes import need

# The programs see the same network as nfio there, and the files of the directory.
_BUS = """\
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
    <allow send_requested_reply="true"/><allow receive_type="method_call"/>
    <allow receive_type="signal"/><allow receive_requested_reply="true"/>
  </policy>
</busconfig>
"""
_COMMAND = """\
#!/bin/sh
export DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/bus
exec chroot {root} /usr/bin/firewall-cmd "$@"
"""


class FirewalldHost(InnerHost):
    """Its link to this host is in the zone ``public``, which lets nobody in."""

    link = "nfiotestfwd"
    namespace = "nfiotestfwd"
    network = "10.213.247"

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self.root = directory / "firewalld"
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._install()
        super().__enter__()
        try:
            for command in ("link set lo up", f"route add default via {self.network}.1"):
                subprocess.run(["ip", "-n", self.namespace, *command.split()], check=True)
            self.start("exec sleep infinity\n", self.directory / "host.log")
            wait_until(
                lambda: "sleep" in self.run("ps", "-o", "args=", "-p", str(self.pid)), 10, "the host is up"
            )
            self._run_daemon("dbus-daemon", "--config-file=/bus.conf", "--nofork", "--nopidfile")
            wait_until((self.root / "run/bus").exists, 10, "its bus is there")
            self._run_daemon("firewalld", "--nofork", "--nopid", "--log-target", "console")
            wait_until(self.answers, 30, "firewalld answers")
            self.firewall("--zone=public", "--change-interface=eth0")
            self.firewall("--runtime-to-permanent")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *failure: object) -> None:
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait(10)
        super().__exit__(*failure)

    def _install(self) -> None:
        need("native", shutil.which("mmdebstrap") is not None, "mmdebstrap is not installed")
        packages = "firewalld,dbus-daemon,nftables,netbase"
        options = ("--quiet", "--variant=extract", f"--include={packages}")
        output_of("mmdebstrap", *options, "bookworm", str(self.root))
        (self.root / "run").mkdir(exist_ok=True)
        (self.root / "bus.conf").write_text(_BUS)
        (self.root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        programs = self.directory / "bin"
        programs.mkdir()
        (programs / "firewall-cmd").write_text(_COMMAND.format(root=self.root))
        (programs / "firewall-cmd").chmod(0o755)

    def _run_daemon(self, *command: str) -> None:
        bus = "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/bus"
        with (self.directory / f"{command[0]}.log").open("wb") as log:
            daemon = subprocess.Popen(
                [*self.inside, "env", bus, "chroot", str(self.root), *command], stdout=log, stderr=log
            )
        self._daemons.append(daemon)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def variables(self) -> dict[str, str]:
        return {"PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}"}

    def answers(self) -> bool:
        return self.firewall("--state", check=False) == "running"

    def firewall(self, *arguments: str, check: bool = True) -> str:
        """Output of firewall-cmd there."""
        return self.run(str(self.directory / "bin/firewall-cmd"), *arguments, check=check)

    def rules(self) -> str:
        """All rules of nftables there."""
        return self.run("nft", "list", "ruleset")
