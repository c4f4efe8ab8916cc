"""One etcd server."""

import http.client
import json
from pathlib import Path

from stack import tools
from stack.ports import free_ports
from stack.server import Server


class Etcd(Server):
    def __init__(self, folder: Path, *, outlive: bool = False) -> None:
        super().__init__("etcd", folder, outlive=outlive)
        self.port, self._peer_port = free_ports(2)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def prepare(self) -> list[str]:
        client, peer = f"http://{self.address}", f"http://127.0.0.1:{self._peer_port}"
        options = {
            "name": "aorist",
            "data-dir": self.folder / "data",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"aorist={peer}",
        }
        return [str(tools.etcd()), *(f"--{key}={value}" for key, value in options.items())]

    def answers(self) -> bool:
        """Its own opinion, which includes that there is a leader."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            link.request("GET", "/health")
            response = link.getresponse()
            return response.status == 200 and json.loads(response.read())["health"] == "true"
        except http.client.HTTPException:
            return False
        finally:
            link.close()
