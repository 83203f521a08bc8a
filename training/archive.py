"""Bundle weights and handler into an archive for TorchServe.

python -m training archive --output model_store/catsdogs.mar
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from training.files import UsageError, write_json

# Modules that import `handler` are imported in functions, since check_code looks for errors in it.

REPOSITORY = Path(__file__).resolve().parent.parent
HANDLER = "catsdogs_handler.py"  # torch-model-archiver puts it next to the folders
NETWORK = ("training/__init__.py", "training/model.py")
# Imports as a worker does. A worker that fails would be restarted for a minute.
IMPORT = """
import importlib, sys
import catsdogs_handler
from ts.utils.util import list_classes_from_module
for name in sys.argv[1:]:
    importlib.import_module(name)
classes = [one.__name__ for one in list_classes_from_module(catsdogs_handler)]
if len(classes) != 1:
    sys.exit(f"TorchServe needs exactly one class, not {classes}")
"""


def archive(weights: Path, version: str | None, output: Path) -> str:
    """Check `weights`, write the archive to `output` and its digest to `output`.sha256.

    `version` replaces the version in the JSON file of the weights. Return the version used. Raises
    UsageError as `check_weights` does, and for an invalid `version` or a folder as `output`; then
    nothing is written.
    """
    from handler.integrity import sha256_of
    from training.weights import check_version, check_weights

    checksum = Path(f"{output}.sha256")
    for path in (output, checksum):
        if path.is_dir():
            raise UsageError(f"{path}: is a folder; name a file")
    card = check_weights(weights)
    version = check_version(str(card["version"]) if version is None else version)
    output.parent.mkdir(parents=True, exist_ok=True)
    # In the same file system, so that the archive is complete when it gets its name.
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".archive-") as folder:
        built = build(weights, card, version, Path(folder).resolve())
        new_checksum = Path(folder, "sha256")
        new_checksum.write_text(f"{sha256_of(built)}  {output.name}\n")
        os.replace(built, output)
        os.replace(new_checksum, checksum)
    return version


def build(weights: Path, card: dict[str, Any], version: str, folder: Path) -> Path:
    """Run torch-model-archiver in `folder`; return the path of the archive."""
    from handler.backend import write_int8_graph
    from handler.integrity import sha256_of
    from training.model import load_classifier
    from training.weights import MODEL_NAME

    extra, scratch = folder / "extra", folder / "scratch"
    scratch.mkdir()
    copy_code(extra)
    # Converted here: workers then start in half the time, and without memory that conversion needs.
    graph = write_int8_graph(load_classifier(weights, card), card["activation_ranges"], extra)
    digests = {path: sha256_of(extra / path) for path in graph}
    # The handler expects these names, whatever the weights are called.
    write_json(extra / f"{MODEL_NAME}.json", card | {"graph_sha256": digests})
    shutil.copy(weights, folder / f"{MODEL_NAME}.pt")
    options = {
        "--model-name": MODEL_NAME,
        "--version": version,
        "--handler": REPOSITORY / "handler" / HANDLER,
        "--serialized-file": folder / f"{MODEL_NAME}.pt",
        "--extra-files": extra,
        "--config-file": REPOSITORY / "handler/model-config.yaml",
        "--export-path": folder,
    }
    subprocess.run(
        [Path(sys.executable).with_name("torch-model-archiver")]
        + [str(word) for option in options.items() for word in option],
        # The archiver empties the folder catsdogs in TMPDIR before it uses it.
        env={**os.environ, "TMPDIR": str(scratch)},
        check=True,
    )
    return folder / f"{MODEL_NAME}.mar"


def packed(repository: Path) -> list[str]:
    """The files that a worker imports, relative to `repository`."""
    modules = sorted((repository / "handler").glob("*.py"))
    names = [f"handler/{module.name}" for module in modules if module.name != HANDLER]
    return [*names, *NETWORK]


def copy_code(folder: Path, repository: Path = REPOSITORY) -> None:
    """Copy the packed files into `folder`."""
    for module in packed(repository):
        (folder / module).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository / module, folder / module)


def check_code(repository: Path = REPOSITORY) -> None:
    """Import the archive's code in a process that can't see the rest of the repository.

    Raises UsageError with file, line and reason if that fails.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy_code(folder, repository)
        shutil.copy(repository / "handler" / HANDLER, folder)
        modules = [module.removesuffix(".py").replace("/", ".") for module in packed(repository)]
        result = subprocess.run(
            [sys.executable, "-B", "-P", "-c", IMPORT, *modules],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": python_path(folder, repository)},
            capture_output=True,
            text=True,
            check=False,
        )
    if result.returncode:
        raise UsageError(what_failed(result.stderr.replace(f"{folder}/", ""), repository))


def python_path(folder: Path, repository: Path) -> str:
    """`folder`, then the entries of PYTHONPATH except the repository."""
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    kept = [path for path in others if Path(path).resolve() != repository]
    return os.pathsep.join([str(folder), *kept])


def what_failed(words: str, repository: Path) -> str:
    """Place, reason and remedy from a traceback with relative paths in the archive."""
    reason = ([""] + words.strip().splitlines())[-1] or "the process ended without a message"
    places = re.findall(r'File "(?!/|<)(.+)", line (\d+)', words)
    file, line = places[-1] if places else (HANDLER, "")
    place = (f"handler/{file}" if file == HANDLER else file) + (line and f", line {line}")
    remedy = "fix this, since workers could not load the archive"
    if (module := missing_module(reason)) and (repository / module).exists():
        remedy = (
            f"{module} is not in the archive; move what workers need to handler or {NETWORK[1]}"
        )
    return f"{place}: {reason}; {remedy}"


def missing_module(reason: str) -> str:
    """The repository's file that an ImportError misses; "" for another error."""
    found = re.search(r"No module named '((?:handler|training)\.\w+)'", reason)
    name = re.search(r"cannot import name '(\w+)' from '(handler|training)'", reason)
    module = found[1] if found else f"{name[2]}.{name[1]}" if name else ""
    return module and f"{module.replace('.', '/')}.py"
