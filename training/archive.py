"""Bundle weights and handler into an archive for TorchServe.

python -m training archive --output model_store/catsdogs.mar
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from model_archiver.model_archiver import ModelArchiver
from model_archiver.model_archiver_config import ModelArchiverConfig

import handler
import training
from training.release import check_weights

MODEL_NAME = "catsdogs"
# What the worker imports, under the names that it has here.
MODULES = (
    "handler/__init__.py",
    "handler/photo.py",
    "handler/request.py",
    "training/__init__.py",
    "training/model.py",
)


def archive(weights: Path, version: str | None, output: Path) -> str:
    """Check `weights`, write the archive to `output` and its digest to `output`.sha256.

    `version` replaces the version in the JSON file beside the weights; returns the one taken.
    Raises UsageError as `check_weights` does; nothing is written then.
    """
    card = check_weights(weights)
    version = version or str(card["version"])
    output.parent.mkdir(parents=True, exist_ok=True)
    # In the same file system, so that the last step is a rename.
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".archive-") as folder:
        built = build(weights, version, Path(folder))
        digest = hashlib.sha256(built.read_bytes()).hexdigest()
        checksum = Path(folder, "sha256")
        checksum.write_text(f"{digest}  {output.name}\n")
        os.replace(built, output)
        os.replace(checksum, f"{output}.sha256")
    return version


def build(weights: Path, version: str, folder: Path) -> Path:
    """Run torch-model-archiver inside `folder`; the path of the archive."""
    handler_folder = Path(handler.__file__).parent
    repository = Path(training.__file__).parent.parent
    extra = folder / "extra"
    for module in MODULES:
        (extra / module).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository / module, extra / module)
    # The handler reads them under these names, whatever the given weights are called.
    shutil.copy(weights.with_suffix(".json"), extra / f"{MODEL_NAME}.json")
    shutil.copy(weights, folder / f"{MODEL_NAME}.pt")
    ModelArchiver.generate_model_archive(
        ModelArchiverConfig(
            model_name=MODEL_NAME,
            version=version,
            handler=str(handler_folder / "catsdogs_handler.py"),
            serialized_file=str(folder / f"{MODEL_NAME}.pt"),
            extra_files=str(extra),
            config_file=str(handler_folder / "model-config.yaml"),
            export_path=str(folder),
        )
    )
    return folder / f"{MODEL_NAME}.mar"
