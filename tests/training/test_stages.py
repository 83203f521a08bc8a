"""dvc.yaml lists the code that each stage imports, so that changes rerun the stage."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from testing.repository import REPOSITORY

STAGES = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
COMMANDS = "training/__main__.py"
# Imported, but not a dependency of a stage.
EXCEPTIONS = {
    "files/__init__.py": "holds no code",
    "files/atomic.py": "how a file is written, not what",
    "handler/__init__.py": "holds no code",
    "training/__init__.py": "holds no code",
    "training/files.py": "words alone",
    "training/params.py": "`params` of each stage has its numbers",
    "training/tracking.py": "tells MLflow; a stage's outputs don't come from there",
}


def modules(code: ast.AST) -> Iterator[str]:
    """Files of this repository that `code` imports, also in functions."""
    for node in ast.walk(code):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for path in (name.replace(".", "/") for name in names):
            files = (f"{path}.py", f"{path}/__init__.py")
            yield from (file for file in files if (REPOSITORY / file).exists())


def imported(command: str) -> set[str]:
    """All direct and indirect imports of `python -m training COMMAND`, except EXCEPTIONS."""
    functions = [
        node
        for node in ast.parse((REPOSITORY / COMMANDS).read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == f"run_{command}"
    ]
    found: set[str] = set()
    waiting = set(modules(*functions)) - EXCEPTIONS.keys()
    while waiting:
        found.add(module := waiting.pop())
        further = set(modules(ast.parse((REPOSITORY / module).read_text())))
        waiting |= further - found - EXCEPTIONS.keys()
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_that_its_command_runs_and_on_no_other(stage: str) -> None:
    command, deps = STAGES[stage]["cmd"].split()[3], STAGES[stage]["deps"]
    code = {file for file in imported(command) if Path(file).parts[0] not in deps}
    assert sorted(dep for dep in deps if dep.endswith(".py")) == sorted(code)
