"""Stand-ins for the actions and commands of the workflows: they record how they are called.

act runs `python stand_ins NAME [ARGUMENT ...]`; an action's NAME is `node`, by which the real ones
run. What the real one would refuse fails: an input it doesn't know, an image that nobody built, a
push without a login. Python's own modules must do, since a run starts some fifty of these.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

from actions import ACTIONS
from commands import COMMANDS
from machine import SETTINGS, Call, Machine, Refused, check, record

RECORDED = ("CATSDOGS_REQUIRE", "PIP_EXTRA_INDEX_URL")


def main() -> int:
    name, *arguments = sys.argv[1:]
    machine = Machine.load()
    call: Call = {
        "job": os.environ["GITHUB_JOB"],
        "python": machine.python,
        "name": name,
        "arguments": arguments,
        "environment": {key: os.environ[key] for key in RECORDED if key in os.environ},
    }
    try:
        if name == "node":
            play_action(Path(arguments[0]).with_name("action.yml"), call, machine)
        else:
            fail_if_told(call, machine)
            COMMANDS[name](call, machine)
    except Refused as error:
        call["refused"] = f"{call['name']}: {error}"
        print(call["refused"], file=sys.stderr)
    machine.save()
    record(call)
    return int("refused" in call)


def play_action(metadata: Path, call: Call, machine: Machine) -> None:
    described = json.loads(metadata.read_text())
    given = {key[6:].lower(): value for key, value in os.environ.items() if key[:6] == "INPUT_"}
    call |= {"name": described["name"], "arguments": [], "inputs": given}
    fail_if_told(call, machine)
    known = {name.lower(): each["required"] for name, each in described["inputs"].items()}
    unknown = sorted(given.keys() - known.keys())
    check(not unknown, f"there is no input {', '.join(unknown)}")
    missing = [name for name, required in known.items() if required and not given.get(name)]
    check(not missing, f"the input {', '.join(missing)} is required")
    ACTIONS[call["name"]](call, machine)


def fail_if_told(call: Call, machine: Machine) -> None:
    """By a pattern of job, Python, name and arguments."""
    words = " ".join([call["job"], machine.python, call["name"], *call["arguments"]])
    fails = SETTINGS["fails"]
    check(not (fails and re.search(fails, words)), "the test has it fail")


if __name__ == "__main__":
    sys.exit(main())
