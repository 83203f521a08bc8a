"""From a folder of photos to released weights and an archive."""

import handler  # noqa: F401  # before OpenVINO, which it keeps from reporting to anyone
