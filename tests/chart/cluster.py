"""A stand-in for a cluster that answers a chart's `lookup` with given objects."""

from __future__ import annotations

import http.server
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

Object = dict[str, Any]
PLURALS = {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"}


@contextmanager
def cluster(objects: list[Object], kinds: list[tuple[str, str]]) -> Iterator[str]:
    """Its address. `kinds` are the apiVersions and kinds that it knows."""
    answers = discovery(kinds) | {path(found): found for found in objects}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path.partition("?")[0])
            missing = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(answer or missing).encode()
            self.send_response(200 if answer else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def discovery(kinds: list[tuple[str, str]]) -> dict[str, Object]:
    """What clients ask a cluster first."""
    resources = defaultdict(list)
    for version, kind in kinds:
        row = {"name": plural(kind), "kind": kind, "namespaced": True, "verbs": ["get"]}
        resources[version].append(row)
    groups = [
        {"name": group, "versions": [{"groupVersion": f"{group}/{version}", "version": version}]}
        for group, _, version in (name.rpartition("/") for name in resources)
        if group
    ]
    return {
        "/version": {"major": "1", "minor": "35", "gitVersion": "v1.35.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "groups": groups},
        **{
            f"/{root(version)}/{version}": {
                "kind": "APIResourceList", "groupVersion": version, "resources": rows
            }
            for version, rows in resources.items()
        },
    }  # fmt: skip


def path(found: Object) -> str:
    version, meta = found["apiVersion"], found["metadata"]
    place = f"namespaces/{meta['namespace']}/{plural(found['kind'])}/{meta['name']}"
    return f"/{root(version)}/{version}/{place}"


def root(version: str) -> str:
    return "apis" if "/" in version else "api"


def plural(kind: str) -> str:
    return PLURALS.get(kind, f"{kind.lower()}s")
