"""The Python code that goes into the archive, and whether TorchServe can import it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from training.errors import UsageError

# Nothing of `handler` is imported here: an error in it is what check_code looks for.

REPOSITORY = Path(__file__).resolve().parent.parent
HANDLER = "catsdogs_handler.py"
# What the worker imports, under the names that it has here.
MODULES = (
    "handler/__init__.py",
    "handler/apart.py",
    "handler/backend.py",
    "handler/explain.py",
    "handler/flat_json.py",
    "handler/form.py",
    "handler/gateway.py",
    "handler/header.py",
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
    "handler/upload_folder.py",
    "training/__init__.py",
    "training/model.py",
)
# As a worker does it, which would be started again for a minute.
IMPORT = """
import importlib, sys
import catsdogs_handler
from ts.utils.util import list_classes_from_module
for name in sys.argv[1:]:
    importlib.import_module(name)
classes = [one.__name__ for one in list_classes_from_module(catsdogs_handler)]
if len(classes) != 1:
    sys.exit(f"TorchServe wants one class, not {classes}")
"""


def copy_code(folder: Path, repository: Path = REPOSITORY) -> None:
    """Copy MODULES into `folder`."""
    for module in MODULES:
        (folder / module).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository / module, folder / module)


def check_code(repository: Path = REPOSITORY) -> None:
    """Import the archive's code in a process that doesn't see the rest of the repository.

    Raises UsageError with file, line and reason where that fails.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy_code(folder, repository)
        shutil.copy(repository / "handler" / HANDLER, folder)
        modules = [module.removesuffix(".py").replace("/", ".") for module in MODULES]
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
    """`folder`, then what PYTHONPATH names, but for the repository."""
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    kept = [path for path in others if Path(path).resolve() != repository]
    return os.pathsep.join([str(folder), *kept])


def what_failed(words: str, repository: Path) -> str:
    """Place, reason and remedy out of a traceback whose paths in the archive are relative."""
    reason = ([""] + words.strip().splitlines())[-1] or "the process ended without a word"
    places = re.findall(r'File "(?!/|<)(.+)", line (\d+)', words)
    file, line = places[-1] if places else (HANDLER, "")
    place = (f"handler/{file}" if file == HANDLER else file) + (line and f", line {line}")
    remedy = "mend that, since workers could not load such an archive"
    if (module := missing_module(reason)) and (repository / module).exists():
        remedy = f"add {module} to MODULES in training/packed.py"
    return f"{place}: {reason}; {remedy}"


def missing_module(reason: str) -> str:
    """The file of ours that an ImportError misses; "" for another error."""
    found = re.search(r"No module named '((?:handler|training)\.\w+)'", reason)
    name = re.search(r"cannot import name '(\w+)' from '(handler|training)'", reason)
    module = found[1] if found else f"{name[2]}.{name[1]}" if name else ""
    return module and f"{module.replace('.', '/')}.py"
