"""The code in the archive: preprocessing, and the class that TorchServe calls."""

import sys

# Blocked: it reports OpenVINO's use to Google Analytics, and stores an id in the home directory.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
