"""Whether the files of an archive are the ones that its catsdogs.json describes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any


def check_digests(folder: Path, card: dict[str, Any]) -> None:
    """Compare the sha256 of the weights, and of the graph that was made of them, with `card`'s.

    TorchServe unpacks whatever it is given, and an int8 graph of other weights answers as if all
    were well. Raises RuntimeError, which TorchServe logs, for the first file that differs.
    """
    for name, digest in {"catsdogs.pt": card["sha256"], **card.get("graph_sha256", {})}.items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != digest:
            raise RuntimeError(
                f"{name} is missing or not the one that catsdogs.json describes; "
                "build the archive again: python -m training archive"
            )


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
