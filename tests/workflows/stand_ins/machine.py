"""The machine of one job, its call, and the state that stand-ins leave for later steps."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SETTINGS: dict[str, str] = json.loads((HERE / "settings.json").read_text())
TAG = re.compile(r"([a-z0-9.-]+(:\d+)?/)?[a-z0-9._/-]+(:[\w.-]{1,128})?")  # of an image

Call = dict[str, Any]


class Refused(Exception):
    """The error of the real command or action."""


@dataclass
class Machine:
    """State for later steps of the same job."""

    python: str = ""
    buildx: bool = False
    registry: str = ""  # after a login
    images: list[str] = field(default_factory=list)
    clusters: list[str] = field(default_factory=list)

    @classmethod
    def load(cls) -> Machine:
        return cls(**json.loads(cls.file().read_text())) if cls.file().exists() else cls()

    def save(self) -> None:
        self.file().write_text(json.dumps(asdict(self)))

    @staticmethod
    def file() -> Path:
        return Path(os.environ["RUNNER_TEMP"], "machine.json")


def check(condition: object, complaint: str) -> None:
    if not condition:
        raise Refused(complaint)


def calls() -> list[Call]:
    """The calls of all jobs so far."""
    file = HERE / "calls.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def record(call: Call) -> None:
    with (HERE / "calls.jsonl").open("a") as file:
        file.write(json.dumps(call) + "\n")


def output(name: str, value: str) -> None:
    with open(os.environ["GITHUB_OUTPUT"], "a") as file:
        file.write(f"{name}<<END-OF-OUTPUT\n{value}\nEND-OF-OUTPUT\n")


def put_on_path(command: str) -> None:
    with open(os.environ["GITHUB_PATH"], "a") as file:
        file.write(f"{HERE / 'installed' / command}\n")
