"""Check files and code against the JSON file of the weights, catsdogs.json."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from handler.photo import SIDE


def check_digests(folder: Path, card: dict[str, Any]) -> None:
    """Compare the sha256 of the weights and of the converted graph with those in `card`.

    TorchServe doesn't check archives, and a graph of other weights would give wrong answers without
    an error. Raises RuntimeError, which TorchServe logs, for the first file that differs.
    """
    for name, digest in {"catsdogs.pt": card["sha256"], **card.get("graph_sha256", {})}.items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != digest:
            raise RuntimeError(
                f"{name} is missing or differs from its sha256 in catsdogs.json; "
                "build the archive again: python -m training archive"
            )


def check_input_size(card: dict[str, Any]) -> None:
    """Raise RuntimeError if the weights were trained on photos of another size than SIDE."""
    if card["input_size"] != SIDE:
        raise RuntimeError(
            f"input_size in the JSON file of the weights is {card['input_size']}, but photos are "
            f"decoded to {SIDE} x {SIDE} pixels (SIDE in handler/photo.py); use weights that were "
            "trained at this size"
        )


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
