"""The gateway as a child process of tools/serve."""

from __future__ import annotations

import os
import resource
import sys
import time
from fractions import Fraction
from pathlib import Path

from child import Child, is_good
from ports import Listener, gateway_listener
from settings import CADDYFILE, LOG, PAGE, NotServed, address, archives, canary, gateway
from sizes import memory_limit, sizes

# A connection takes one, its request another: bounds how many uploads the gateway holds.
GATEWAY_FILES = 1024


class Gateway(Child):
    """Caddy, the only public door."""

    name, option = "the gateway", "gateway"
    logs = ("gateway-errors.log",)

    def listeners(self) -> list[Listener]:
        listeners = [
            gateway_listener("PORT", "the gateway"),
            gateway_listener("METRICS_PORT", "the gateway's metrics"),
        ]
        if os.environ.get("CATSDOGS_DOMAIN"):
            listeners.append(gateway_listener("HTTP_PORT", "plain HTTP"))
        if canary():
            for version in ("current", "canary"):
                port = f"{version.upper()}_PORT"
                listeners.append(gateway_listener(port, f"the {version} version", "127.0.0.1"))
        return listeners

    def start(self) -> None:
        names = ("inference", "management", "metrics")
        upstreams = {f"TS_{name.upper()}_ADDRESS": address(name) for name in names}
        # The same by another name: the gateway counts large requests apart.
        upstreams["CATSDOGS_LARGE_ADDRESS"] = address("inference").replace("127.0.0.1", "localhost")
        command = [caddy(), "run", "--adapter", "caddyfile", "--config", CADDYFILE]
        # Go's collector: photos that wait to be passed on are soon garbage.
        settings = {
            "LOG_LOCATION": str(LOG), "CATSDOGS_PAGE": str(PAGE),
            "GOMEMLIMIT": f"{self.memory()}MiB",
        }  # fmt: skip
        if os.environ.get("CATSDOGS_DOMAIN"):
            settings["CATSDOGS_TRUST"] = "skip_install_trust"
        if second := canary():
            share = Fraction(second.percent, 100)  # 9 and 1, not 90 in a row and then 10
            shares = f"{share.denominator - share.numerator} {share.numerator}"
            settings |= {"CATSDOGS_SPLIT": "divided", "CATSDOGS_SHARES": shares}
        if not self.alone:
            settings["CATSDOGS_LARGE_PLACES"] = str(sizes(len(archives())).large_photos)
        self.run(command, upstreams | settings)

    def memory(self) -> int:
        """Megabytes above which Go collects its garbage more often."""
        limit = memory_limit()
        return min(256, limit // 2**20 // (2 if self.alone else 8)) if limit else 256

    def before_exec(self) -> None:
        super().before_exec()
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = GATEWAY_FILES if most == resource.RLIM_INFINITY else min(GATEWAY_FILES, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    def wait_until_ready(self, deadline: float) -> None:
        """Until it classifies a picture, or, alone, until it listens."""
        while not (listens() if self.alone else ready()):
            if self.ended():
                raise NotServed("the gateway ended")
            if time.monotonic() > deadline:
                raise NotServed("no picture was classified in time")
            time.sleep(0.1)

    def addresses(self) -> dict[str, str]:
        return {
            "page": f"{gateway()}/",
            "predict": f"{gateway()}/predict",
            "metrics": f"{gateway('METRICS_PORT')}/metrics",
        }


def ready() -> bool:
    """Whether a picture is classified through the gateway."""
    return is_good(f"{gateway('METRICS_PORT')}/ready")


def listens() -> bool:
    """Whether the gateway does, with or without TorchServe behind it."""
    return is_good(f"{gateway('METRICS_PORT')}/metrics/gateway")


def caddy() -> Path | str:
    """Of this environment's wheel, or the one on the PATH."""
    beside = Path(sys.executable).with_name("caddy")
    return beside if beside.exists() else "caddy"
