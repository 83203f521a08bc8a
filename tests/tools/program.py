"""The programs in tools/ have no suffix; a test that looks inside one imports it from here."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from types import ModuleType

from testing.repository import REPOSITORY

TOOLS = REPOSITORY / "tools"
NAMES = sorted(path.name for path in TOOLS.iterdir() if path.is_file() and not path.suffix)


def load(name: str) -> ModuleType:
    loader = SourceFileLoader(name, str(TOOLS / name))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
