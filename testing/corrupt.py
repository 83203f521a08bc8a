"""Make corrupt archives from a good one, and corrupt a loaded model."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from testing.servers import Server

Files = dict[str, bytes]  # by their names in the archive
HANDLER = "catsdogs_handler.py"
WEIGHTS = "catsdogs.pt"


def without_weights(files: Files) -> None:
    for name in [name for name in files if name.startswith("int8/") or name == WEIGHTS]:
        del files[name]


def another_network(files: Files) -> None:
    without_weights(files)
    files[WEIGHTS] = saved(torch.nn.Linear(2, 2).state_dict())


def not_a_number(files: Files) -> None:
    """Weights from a training that diverged."""
    state = torch.load(io.BytesIO(files[WEIGHTS]), weights_only=True)
    state["fc3.weight"] = torch.full_like(state["fc3.weight"], float("nan"))
    without_weights(files)
    files[WEIGHTS] = saved(state)


def syntax_error(files: Files) -> None:
    files[HANDLER] = b"def initialize(:\n"


def no_handler_class(files: Files) -> None:
    files[HANDLER] = b"class A:\n    pass\n\nclass B:\n    pass\n"


CORRUPTIONS: dict[str, Callable[[Files], None]] = {
    "no weights": without_weights,
    "another network's weights": another_network,
    "weights that are not numbers": not_a_number,
    "a handler with a syntax error": syntax_error,
    "a handler with two classes": no_handler_class,
}


def corrupt(archive: Path, corruption: str, version: str, output: Path) -> None:
    """Write a corrupt copy of `archive` as `version` to `output`; "half an archive": truncated."""
    with zipfile.ZipFile(archive) as source:
        files = {name: source.read(name) for name in source.namelist() if name[-1] != "/"}
    manifest = json.loads(files["MAR-INF/MANIFEST.json"])
    manifest["model"]["modelVersion"] = version
    files["MAR-INF/MANIFEST.json"] = json.dumps(manifest).encode()
    if corruption in CORRUPTIONS:
        CORRUPTIONS[corruption](files)
    with zipfile.ZipFile(output, "w") as target:
        for name, content in files.items():
            target.writestr(name, content)
    if corruption not in CORRUPTIONS:
        output.write_bytes(output.read_bytes()[: output.stat().st_size // 2])


def spoil_loaded_model(server: Server) -> None:
    """In the folder to which TorchServe has extracted the archive."""
    for card in Path(server.environment["TMPDIR"]).glob("*/models/*/catsdogs.json"):
        card.write_text("")


def saved(state: dict[str, torch.Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
