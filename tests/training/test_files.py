from __future__ import annotations

import subprocess
import sys


def test_who_writes_a_table_or_a_json_file_does_not_wait_for_torch() -> None:
    program = "import sys, training.markdown; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
