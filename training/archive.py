"""Bundle weights and handler into an archive for TorchServe.

python -m training archive --output model_store/catsdogs.mar
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import handler
import training
from handler.backend import INT8_GRAPH, write_graph
from handler.integrity import sha256_of
from training.errors import UsageError
from training.files import write_json
from training.model import load_classifier
from training.weights import MODEL_NAME, check_version, check_weights

# What the worker imports, under the names that it has here.
MODULES = (
    "handler/__init__.py",
    "handler/apart.py",
    "handler/backend.py",
    "handler/explain.py",
    "handler/integrity.py",
    "handler/metrics.py",
    "handler/parts.py",
    "handler/photo.py",
    "handler/photo_log.py",
    "handler/pixels.py",
    "handler/quantities.py",
    "handler/request.py",
    "handler/tiff.py",
    "handler/unopened.py",
    "handler/upload.py",
    "training/__init__.py",
    "training/model.py",
)


def archive(weights: Path, version: str | None, output: Path) -> str:
    """Check `weights`, write the archive to `output` and its digest to `output`.sha256.

    `version` replaces the version in the JSON file beside the weights; returns the one taken.
    Raises UsageError as `check_weights` does, and for a wrong `version` or an `output` that is a
    folder; nothing is written then.
    """
    checksum = Path(f"{output}.sha256")
    for path in (output, checksum):
        if path.is_dir():
            raise UsageError(f"{path}: is a folder; name the archive's file")
    card = check_weights(weights)
    version = check_version(str(card["version"]) if version is None else version)
    output.parent.mkdir(parents=True, exist_ok=True)
    # In the same file system, so that the last step is a rename.
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".archive-") as folder:
        built = build(weights, card, version, Path(folder).resolve())
        new_checksum = Path(folder, "sha256")
        new_checksum.write_text(f"{sha256_of(built)}  {output.name}\n")
        os.replace(built, output)
        os.replace(new_checksum, checksum)
    return version


def build(weights: Path, card: dict[str, Any], version: str, folder: Path) -> Path:
    """Run torch-model-archiver inside `folder`; the path of the archive."""
    handler_folder = Path(handler.__file__).parent
    repository = Path(training.__file__).parent.parent
    extra, scratch = folder / "extra", folder / "scratch"
    scratch.mkdir()
    for module in MODULES:
        (extra / module).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository / module, extra / module)
    # Converted here, so that workers start in half the time and without what conversion leaves in
    # their memory.
    write_graph(load_classifier(weights, card), card["activation_ranges"], extra / INT8_GRAPH)
    graph = [Path(INT8_GRAPH).with_suffix(suffix) for suffix in (".bin", ".xml")]
    digests = {str(path): sha256_of(extra / path) for path in graph}
    # The handler reads them under these names, whatever the given weights are called.
    write_json(extra / f"{MODEL_NAME}.json", card | {"graph_sha256": digests})
    shutil.copy(weights, folder / f"{MODEL_NAME}.pt")
    options = {
        "--model-name": MODEL_NAME,
        "--version": version,
        "--handler": handler_folder / "catsdogs_handler.py",
        "--serialized-file": folder / f"{MODEL_NAME}.pt",
        "--extra-files": extra,
        "--config-file": handler_folder / "model-config.yaml",
        "--export-path": folder,
    }
    subprocess.run(
        [Path(sys.executable).with_name("torch-model-archiver")]
        + [str(word) for option in options.items() for word in option],
        # It empties the folder catsdogs of the temporary one before it uses it.
        env={**os.environ, "TMPDIR": str(scratch)},
        check=True,
    )
    return folder / f"{MODEL_NAME}.mar"
