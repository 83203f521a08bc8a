from __future__ import annotations

import http.server
import sys
import threading

from tests.conftest import REPOSITORY
from tests.e2e.servers import Server, free_ports


def test_a_good_server_passes_every_check(server: Server) -> None:
    told = server.run(sys.executable, REPOSITORY / "tools/smoke")
    assert told.returncode == 0, told.stdout
    lines = told.stdout.splitlines()
    assert len(lines) == 8
    assert all(line.startswith("ok      ") for line in lines)
    away = server.run(sys.executable, REPOSITORY / "tools/smoke", server.address("gateway"))
    assert away.returncode == 0
    assert len(away.stdout.splitlines()) == 7  # metrics are not reached from elsewhere


def test_nobody_or_somebody_else_fails_in_time_and_in_a_line(server: Server) -> None:
    class SomebodyElse(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"status": "what?"}')

        do_POST = do_GET

        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), SomebodyElse) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        for port, lines in ((free_ports(1)[0], 1), (other.server_port, 7)):
            url = f"http://127.0.0.1:{port}"
            told = server.run(sys.executable, REPOSITORY / "tools/smoke", url, "--wait", "1")
            assert told.returncode == 1
            assert len(told.stdout.splitlines()) == lines, told.stdout
            assert "FAILED" in told.stdout.splitlines()[-1]
            assert told.stderr == ""
        other.shutdown()
