"""The machine on which the provider ``kind`` is tested: its API server, and what it was asked."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from stand_in import calls, state

from aiinfra_lab.kube.place import Place

VERSION = ["major", "minor", "gitCommit", "gitTreeState", "buildDate", "goVersion"]
VERSION += ["compiler", "platform"]


class Api:
    """The API server of whatever containers there are."""

    def __init__(self, folder: Path) -> None:
        self.version, self.unready, self.folder = "v1.36.4", set[str](), folder
        self.objects: dict[str, dict[str, Any]] = {}
        self.gpus: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api.asked.append(f"GET {self.path}")
                if self.path.rstrip("/") == "/version":
                    self.answer(200, dict.fromkeys(VERSION, "x") | {"gitVersion": api.version})
                elif self.path == "/api/v1/nodes":
                    self.answer(200, {"items": api.nodes()})
                else:
                    found = api.objects.get(self.path)
                    self.answer(200 if found else 404, found or {"message": "not found"})

            def do_POST(self) -> None:
                api.asked.append(f"POST {self.path}")
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                established = {"conditions": [{"type": "Established", "status": "True"}]}
                name = body["metadata"]["name"]
                api.objects[f"{self.path}/{name}"] = body | {"status": established}
                self.answer(201, body)

            def do_PATCH(self) -> None:
                api.asked.append(f"PATCH {self.path}")
                merged = self.headers["Content-Type"] == "application/strategic-merge-patch+json"
                change = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if merged and self.path.endswith("/status"):
                    # Those that the scheduler counts.
                    api.gpus[self.path.split("/")[-2]] = change["status"]["allocatable"]
                self.answer(200, {})

            def do_DELETE(self) -> None:
                api.asked.append(f"DELETE {self.path}")
                self.answer(200, api.objects.pop(self.path))

            def answer(self, status: int, document: dict[str, Any]) -> None:
                text = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *words: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def nodes(self) -> list[dict[str, Any]]:
        with state(self.folder) as now:
            names = [one["Name"].lstrip("/") for one in now["containers"]]
        return [
            {
                "metadata": {"name": name},
                "status": {
                    "conditions": [
                        {
                            "type": "Ready",
                            "status": "False" if name in self.unready else "True",
                            "message": "container runtime network not ready",
                        }
                    ]
                },
            }
            for name in names
        ]


class Machine:
    """A machine with the two commands, and what it is like now."""

    def __init__(self, folder: Path, api: Api) -> None:
        self.folder, self.api = folder, api

    def be(self, **how: Any) -> None:
        """Behave otherwise from now on."""
        with state(self.folder) as now:
            now.update(how)

    def asked(self, program: str, *start: str) -> list[list[str]]:
        """The calls of a command that begin with these words."""
        return calls(self.folder, program, *start)

    def left(self) -> list[str]:
        """What there is of containers and volumes."""
        with state(self.folder) as now:
            return [one["Name"] for one in now["containers"]] + now["volumes"]

    def config(self) -> dict[str, Any]:
        """What kind was given as the cluster ``t``."""
        document: dict[str, Any] = yaml.safe_load((Place("t").root / "kind.yaml").read_text())
        return document
