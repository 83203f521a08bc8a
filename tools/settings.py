"""What the environment and config.properties say about serving from this folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

CONFIG = Path("config.properties")
GATEWAY = Path(__file__).resolve().parent.parent / "gateway"
PAGE = GATEWAY / "page"
CAT = PAGE / "examples/cat.jpg"  # which the image has, too
ARCHIVE = Path("model_store/catsdogs.mar")
LOG = Path(os.environ.get("LOG_LOCATION", "logs"))
# The gateway's variables and their defaults; docs/gateway.md explains them.
VARIABLES = {
    "CATSDOGS_HOST": "127.0.0.1",
    "CATSDOGS_PORT": "8000",
    "CATSDOGS_METRICS_PORT": "8002",
    "CATSDOGS_EXPORTER_PORT": "8003",
    "CATSDOGS_WATCHER_PORT": "8004",
    "CATSDOGS_HTTP_PORT": "80",
    "CATSDOGS_API_KEYS": "",
    "CATSDOGS_CANARY": "",
    "CATSDOGS_CANARY_VERSION": "",
    "CATSDOGS_CLIENT_LIMIT": "on",
    "CATSDOGS_TRUSTED_PROXIES": "",
    "CATSDOGS_TLS_CERT": "",
    "CATSDOGS_TLS_KEY": "",
    "CATSDOGS_UPLOADS": "",
    "CATSDOGS_NGINX": "",
}


# A canary that tools/rollout has begun: percent and version, in JSON.
ROLLOUT = LOG / "rollout.json"


class NotServed(Exception):
    """Why catsdogs can't be served, and what to do."""


class Canary(NamedTuple):
    """A second version, for some of the requests that name none."""

    version: str
    percent: int


def canary() -> Canary | None:
    """What CATSDOGS_CANARY and CATSDOGS_CANARY_VERSION say. Raises NotServed for nonsense."""
    percent, version = (os.environ.get(f"CATSDOGS_CANARY{end}", "") for end in ("", "_VERSION"))
    if not percent and not version:
        return None
    if not re.fullmatch(r"[1-9][0-9]?", percent) or not re.fullmatch(
        r"\d[\d.]{0,31}", version, re.A
    ):
        raise NotServed(
            "CATSDOGS_CANARY and CATSDOGS_CANARY_VERSION: give both, a percentage from 1 to 99 and "
            "a version, such as 10 and 2.0"
        )
    return Canary(version, int(percent))


def given(variable: str) -> str:
    """One of the gateway's variables, from the environment or by default."""
    return os.environ.get(variable) or VARIABLES[variable]


def is_on(variable: str) -> bool:
    """Raises NotServed for anything but on and off."""
    if (value := given(variable)) not in ("on", "off"):
        raise NotServed(f"{variable} is {value}; give on or off")
    return value == "on"


def uploads() -> Path:
    """The folder that uploads are handed over in."""
    return Path(given("CATSDOGS_UPLOADS") or LOG / "uploads").absolute()


def split() -> Canary | None:
    """What a rollout wants divided now, or what the environment does."""
    try:
        return Canary(**json.loads(ROLLOUT.read_text()))
    except FileNotFoundError:
        return canary()


def api_keys() -> list[str]:
    return list(filter(None, given("CATSDOGS_API_KEYS").split(",")))


def api_key() -> dict[str, str]:
    """The header with CATSDOGS_API_KEY, or else the first of the gateway's own keys, if any."""
    keys = [os.environ.get("CATSDOGS_API_KEY", ""), *api_keys()]
    return {"X-API-Key": key} if (key := next(filter(None, keys), "")) else {}


def logs_to_stdout() -> bool:
    """As containers do it; log4j2.xml reads the same variable."""
    return os.environ.get("CATSDOGS_LOGS") == "stdout"


def archives() -> list[Path]:
    """Of the default version, then of the canary."""
    second = canary()
    return [ARCHIVE, ARCHIVE.with_name(f"catsdogs-{second.version}.mar")] if second else [ARCHIVE]


def check_files() -> None:
    """Raise NotServed where a file is missing, a key weak or an archive not the one built here.

    TorchServe doesn't look: it would restart the workers of a damaged archive for a minute.
    """
    for path in (CONFIG, ARCHIVE):
        if not path.exists():
            raise NotServed(f"{path} is missing here; run `make serve`")
    keys = os.environ.get("CATSDOGS_API_KEYS", "")
    if keys and not re.fullmatch(r"[\w-]{32,}(,[\w-]{32,})*", keys, re.ASCII):
        raise NotServed(
            "CATSDOGS_API_KEYS: give keys of at least 32 letters, digits, - and _ each, separated "
            "by commas, as `openssl rand -hex 32` makes them"
        )
    for path in archives():
        check_archive(path)


def check_archive(path: Path) -> None:
    """Raise NotServed where it is missing, no archive, or not what its checksum tells."""
    if not path.exists():
        raise NotServed(f"{path} is missing here; `python -m training archive` makes one")
    checksum = Path(f"{path}.sha256")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if checksum.exists() and not checksum.read_text().startswith(digest):
        raise NotServed(f"{path} is not what {checksum} tells; run `make -B {ARCHIVE}`")
    try:
        with zipfile.ZipFile(path) as archive:
            archive.getinfo("MAR-INF/MANIFEST.json")
    except (zipfile.BadZipFile, KeyError):  # TorchServe would load it as an empty model
        raise NotServed(f"{path} is no archive; `python -m training archive` makes one") from None


def chosen() -> dict[str, str]:
    """Digests of the variables by which this environment chooses how to serve, by their names."""
    return {
        name: hashlib.sha256(value.encode()).hexdigest()
        for name, value in os.environ.items()
        if name.startswith("TS_") or name in VARIABLES
    }


def properties() -> dict[str, str]:
    """What config.properties says, before the environment's overrides."""
    lines = [line.strip() for line in CONFIG.read_text().splitlines()]
    pairs = [line.partition("=") for line in lines if "=" in line and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in pairs}


def address(name: str) -> str:
    """A listener of TorchServe, from the environment or config.properties, as it reads them."""
    return os.environ.get(f"TS_{name.upper()}_ADDRESS") or properties()[f"{name}_address"]


def gateway(port: str = "PORT", host: str | None = None) -> str:
    """The address of a listener of the gateway, for clients."""
    host = host or given("CATSDOGS_HOST")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    protocol = "https" if port == "PORT" and given("CATSDOGS_TLS_CERT") else "http"
    return f"{protocol}://{f'[{host}]' if ':' in host else host}:{given(f'CATSDOGS_{port}')}"
