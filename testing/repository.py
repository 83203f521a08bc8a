"""The repository, and the model that it releases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
# Of the released weights.
CARD: dict[str, Any] = json.loads((REPOSITORY / "models/catsdogs.json").read_text())
VERSION, CLASSES = CARD["version"], CARD["classes"]
