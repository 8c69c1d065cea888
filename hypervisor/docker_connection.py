"""Where a host's Docker engine is, and a client that speaks to it.

The engine of this host is found as the docker command finds it (``DOCKER_HOST``, else the
socket). The engine of another host is reached by ssh, or by TLS where ``DOCKER_TLS_VERIFY``
is set; ``NFIO_DOCKER_URL`` overrides that with a URL in which ``{host}`` stands for the host.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from docker import APIClient
from docker.constants import MINIMUM_DOCKER_API_VERSION
from docker.tls import TLSConfig
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection

from hypervisor.docker_ssh import SshAdapter

LOCAL_HOSTS = frozenset({"", "localhost", "127.0.0.1", "::1"})
DEFAULT_URL = "unix:///var/run/docker.sock"


def url_of(host: str) -> str:
    """URL of a host's engine."""
    if host in LOCAL_HOSTS:
        return os.environ.get("DOCKER_HOST") or DEFAULT_URL
    template = os.environ.get("NFIO_DOCKER_URL")
    if template is None:
        template = "tcp://{host}:2376" if os.environ.get("DOCKER_TLS_VERIFY") else "ssh://{host}"
    return template.replace("{host}", f"[{host}]" if ":" in host else host)


def _tls(url: str) -> TLSConfig | bool:
    if not (url.startswith(("tcp:", "https:")) and os.environ.get("DOCKER_TLS_VERIFY")):
        return False
    certificates = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    return TLSConfig(
        client_cert=(str(certificates / "cert.pem"), str(certificates / "key.pem")),
        ca_cert=str(certificates / "ca.pem"),
        verify=True,
    )


class _TcpAdapter(HTTPAdapter):
    """Finds out when the other host is gone without a word, though nothing is to be sent to it.

    An event stream is read only: without tcp(7)'s keepalive its reader would wait for ever.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        options = [
            *HTTPConnection.default_socket_options,
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 3),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
        ]
        super().init_poolmanager(*args, socket_options=options, **kwargs)


def _client(url: str, version: str, timeout_s: float, ssh: SshAdapter | None) -> APIClient:
    # Over ssh it speaks as over a unix socket: only the connections are others.
    base_url = url if ssh is None else "unix://ssh"
    made = APIClient(base_url=base_url, version=version, timeout=int(timeout_s), tls=_tls(url))
    # The environment's certificates and proxies are for the web: an engine has its own authority.
    made.trust_env = False
    if ssh is not None:
        made.mount("http+docker://", ssh)
    elif not url.startswith("unix:"):
        made.mount("http://", _TcpAdapter())
        made.mount("https://", _TcpAdapter())
    return made


def connect(url: str, timeout_s: float) -> APIClient:
    """A client of an engine, in the version of its API that the engine has. Asks the engine for it.

    Raises:
        Whatever the SDK raises; see docker_errors.
    """
    ssh = SshAdapter(url, timeout_s) if url.startswith("ssh:") else None
    first = _client(url, MINIMUM_DOCKER_API_VERSION, timeout_s, ssh)
    version: str = first.version(api_version=False)["ApiVersion"]
    return _client(url, version, timeout_s, ssh)
