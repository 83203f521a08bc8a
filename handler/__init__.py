"""What goes into the archive: preprocessing, and the class that TorchServe calls."""

import sys

# With it OpenVINO tells Google Analytics of its use, and keeps an id in the home directory.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
