"""TCP and UDP between clients: a server that says who it sees, and a connection that is kept."""

from __future__ import annotations

import subprocess
import sys

from engine import wait_until
from lab import Client

# Each line, and each datagram, is answered with the address and the port that it came from.
_SERVER = """
import socketserver, sys, threading
class Tcp(socketserver.StreamRequestHandler):
    def handle(self):
        for _ in self.rfile:
            self.wfile.write("{} {}\\n".format(*self.client_address).encode())
class Udp(socketserver.BaseRequestHandler):
    def handle(self):
        self.request[1].sendto("{} {}\\n".format(*self.client_address).encode(), self.client_address)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
for port in map(int, sys.argv[1:]):
    threading.Thread(target=Server(("", port), Tcp).serve_forever).start()
    threading.Thread(target=socketserver.UDPServer(("", port), Udp).serve_forever).start()
"""
_CLIENT = """
import socket, sys
kind, address, port, own = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with socket.socket(socket.AF_INET, getattr(socket, f"SOCK_{kind}")) as made:
    made.settimeout(1)
    made.bind(("", own))
    made.connect((address, port))
    for line in sys.stdin:
        made.sendall(line.encode())
        try:
            print(made.recv(100).decode().strip(), flush=True)
        except TimeoutError:
            print("nothing", flush=True)
"""


def serve(client: Client, *ports: int) -> None:
    """Answer lines on TCP ports, and datagrams on the UDP ports of those numbers."""
    client.begin(sys.executable, "-c", _SERVER, *map(str, ports))
    # Whether it listens is asked without a connection: those are what the tests count.
    wait_until(
        lambda: all(f":{port} " in client.run("ss", "-Hltn") for port in ports), 10, "the server listens"
    )


class Connection:
    """A connection from a port of its own that is kept until its client goes."""

    def __init__(
        self, client: Client, address: str, port: int, own_port: int = 0, kind: str = "STREAM"
    ) -> None:
        arguments = (sys.executable, "-c", _CLIENT, kind, address, str(port), str(own_port))
        self._process = client.begin(*arguments, stdin=subprocess.PIPE)

    def ask(self) -> str:
        """Whom the server sees, ``address port``; ``nothing``, or words of an error, if there is no answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write("who am I?\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        said = self._process.stdout.readline().strip()
        return said if "Traceback" not in said else self._process.stdout.read().strip().splitlines()[-1]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def seen_by(client: Client, address: str, port: int, own_port: int = 0, kind: str = "STREAM") -> str:
    """Whom a server sees that is asked once."""
    connection = Connection(client, address, port, own_port, kind)
    try:
        return connection.ask()
    finally:
        connection.close()
