"""Settings of the servers, from the environment and config.properties."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
import zipfile
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

CONFIG = Path("config.properties")
GATEWAY = Path(__file__).resolve().parents[2] / "gateway"
PAGE = GATEWAY / "page"
CAT = PAGE / "examples/cat.jpg"  # the image has it, too
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
    "CATSDOGS_LOGS": "file",
}


# What runs: process ID, addresses and versions, in JSON. tools/serve writes it when all is ready.
STATE = LOG / "serve.json"
# The canary of a running tools/rollout: percentage and version, in JSON.
ROLLOUT = LOG / "rollout.json"


class NotServed(Exception):
    """catsdogs can't be served; the message says why and what to do."""


class Canary(NamedTuple):
    """A second version, which gets a share of the requests that name no version."""

    version: str
    percent: int


def canary() -> Canary | None:
    """Read CATSDOGS_CANARY and CATSDOGS_CANARY_VERSION. Raises NotServed for invalid values."""
    percent, version = (os.environ.get(f"CATSDOGS_CANARY{end}", "") for end in ("", "_VERSION"))
    if not percent and not version:
        return None
    if not re.fullmatch(r"[1-9][0-9]?", percent) or not re.fullmatch(
        r"\d[\d.]{0,31}", version, re.A
    ):
        raise NotServed(
            f"CATSDOGS_CANARY is {percent!r}, CATSDOGS_CANARY_VERSION is {version!r}; set both, "
            "a percentage from 1 to 99 and a version, such as 10 and 3.0"
        )
    return Canary(version, int(percent))


def given(variable: str) -> str:
    """The value of a gateway variable, from the environment or the default."""
    return os.environ.get(variable) or VARIABLES[variable]


def is_on(variable: str) -> bool:
    """Whether a variable is "on". Raises NotServed unless it is "on" or "off"."""
    if (value := given(variable)) not in ("on", "off"):
        raise NotServed(f"{variable} is {value}; set on or off")
    return value == "on"


def uploads() -> Path:
    """The folder of uploads. The gateway passes TorchServe the path of each in a header."""
    return Path(given("CATSDOGS_UPLOADS") or LOG / "uploads").absolute()


def check_folders() -> None:
    """Raise NotServed for a folder name that Java, log4j or a header would change."""
    check_name("LOG_LOCATION", LOG.absolute())
    check_name("CATSDOGS_UPLOADS", uploads())
    if re.search(r"%|\$\{", str(LOG)):
        raise NotServed(
            f"LOG_LOCATION: {LOG} contains % or ${{, which log4j replaces; name another folder"
        )


def check_name(variable: str, folder: Path | str) -> None:
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", str(folder)):
        raise NotServed(
            f"{variable}: {str(folder)!r} contains a control character or one that is not UTF-8; "
            "name another folder"
        )


def split() -> Canary | None:
    """The canary that gets requests now: that of a rollout, or else of the environment."""
    try:
        return Canary(**json.loads(ROLLOUT.read_text()))
    except FileNotFoundError:
        return canary()


def api_keys() -> list[str]:
    return list(filter(None, given("CATSDOGS_API_KEYS").split(",")))


def api_key() -> dict[str, str]:
    """A header with CATSDOGS_API_KEY or else the first of CATSDOGS_API_KEYS; {} without keys."""
    keys = [os.environ.get("CATSDOGS_API_KEY", ""), *api_keys()]
    return {"X-API-Key": key} if (key := next(filter(None, keys), "")) else {}


def logs_to_stdout() -> bool:
    """Whether logs go to standard output, as in a container. log4j2.xml reads the same variable."""
    return given("CATSDOGS_LOGS") == "stdout"


def archives() -> list[Path]:
    """The archive of the default version, then that of the canary."""
    second = canary()
    return [ARCHIVE, ARCHIVE.with_name(f"catsdogs-{second.version}.mar")] if second else [ARCHIVE]


def check_variables() -> None:
    """Raise NotServed for a name that is nearly one of VARIABLES, since it has no effect."""
    for name in os.environ:
        if name.startswith("CATSDOGS_") and name not in {*VARIABLES, "CATSDOGS_API_KEY"}:
            for meant in get_close_matches(name, VARIABLES, n=1, cutoff=0.9):
                raise NotServed(f"{name} is unknown; set {meant}, or unset it")


def warnings(only: str | None) -> list[str]:
    """Variables that an operator may not have meant; `only` is the one server that is started."""
    found = []
    if os.environ.get("CATSDOGS_API_KEY") and not api_keys():
        found.append("CATSDOGS_API_KEY is for clients; only CATSDOGS_API_KEYS makes keys required")
    if lost := sorted(set(last_chosen(only)) - chosen().keys()):
        found.append(f"the last server was started with {', '.join(lost)}, this one is not")
    return found


def check_files() -> None:
    """Raise NotServed for a missing file, a weak API key or a damaged archive.

    TorchServe doesn't check: it would restart the workers of a damaged archive for a minute.
    """
    for path in (CONFIG, ARCHIVE):
        if not path.exists():
            raise NotServed(f"{path} is missing in this folder; run `make serve` in the repository")
    keys = os.environ.get("CATSDOGS_API_KEYS")
    if keys == "":  # such as the output of a command that failed; it must not open the gateway
        raise NotServed(
            "CATSDOGS_API_KEYS is set, but empty; unset it, or set keys: `openssl rand -hex 32`"
        )
    if keys and not re.fullmatch(r"[\w-]{32,}(,[\w-]{32,})*", keys, re.ASCII):
        raise NotServed(
            "CATSDOGS_API_KEYS has a key of under 32 characters, or with other characters than "
            "letters, digits, - and _; separate keys by commas. Create one with "
            "`openssl rand -hex 32`"
        )
    for path in archives():
        check_archive(path)


def check_archive(path: Path) -> None:
    """Raise NotServed if it is missing, no archive, or differs from its checksum."""
    if not path.exists():
        raise NotServed(f"{path} is missing; build it with `python -m training archive`")
    checksum = Path(f"{path}.sha256")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if checksum.exists() and not checksum.read_text().startswith(digest):
            raise NotServed(f"{path} does not match {checksum}; run `make -B {ARCHIVE}`")
        with zipfile.ZipFile(path) as archive:
            archive.getinfo("MAR-INF/MANIFEST.json")
    except OSError as error:
        raise NotServed(
            f"{error.filename or path}: {error.strerror}; make it readable for this user"
        ) from error
    except (zipfile.BadZipFile, KeyError):  # TorchServe would load it as an empty model
        raise NotServed(
            f"{path} is not an archive; build one with `python -m training archive`"
        ) from None


def chosen() -> dict[str, str]:
    """Hashes of the environment variables that configure the servers, by name."""
    return {
        name: hashlib.sha256(value.encode()).hexdigest()
        for name, value in os.environ.items()
        if name.startswith("TS_") or name in VARIABLES
    }


def last_chosen(only: str | None) -> list[str]:
    """The names of `chosen_file`; [] if there are none."""
    try:
        return list(map(str, json.loads(chosen_file(only).read_text())))
    except (OSError, ValueError, TypeError):
        return []


def chosen_file(only: str | None) -> Path:
    """It names the variables that configured the last start of these servers."""
    return LOG / (f"chosen-{only}.json" if only else "chosen.json")


def properties() -> dict[str, str]:
    """The content of config.properties, which the environment may override."""
    lines = [line.strip() for line in CONFIG.read_text().splitlines()]
    pairs = [line.partition("=") for line in lines if "=" in line and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in pairs}


def address(name: str) -> str:
    """The address of a TorchServe listener, from the environment or else config.properties."""
    return os.environ.get(f"TS_{name.upper()}_ADDRESS") or properties()[f"{name}_address"]


def gateway(port: str = "PORT", host: str | None = None) -> str:
    """The URL at which clients reach a listener of the gateway.

    Raises NotServed if CATSDOGS_HOST is no address.
    """
    host = host or gateway_host()
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    protocol = "https" if port == "PORT" and given("CATSDOGS_TLS_CERT") else "http"
    return f"{protocol}://{authority(host, given(f'CATSDOGS_{port}'))}"


def gateway_host() -> str:
    """CATSDOGS_HOST, normalised. Raises NotServed for an address that nginx can't listen on."""
    value = given("CATSDOGS_HOST")
    try:
        address = ipaddress.ip_address(value)
    except ValueError as error:
        raise NotServed(f"CATSDOGS_HOST: {error}; set one such as 127.0.0.1 or ::1") from error
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.scope_id:
        raise NotServed(f"CATSDOGS_HOST: {value} names an interface; set an address without %")
    return str(address.ipv4_mapped or address)


def authority(host: str, port: str) -> str:
    """Host and port as in URLs: IPv6 addresses are in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
