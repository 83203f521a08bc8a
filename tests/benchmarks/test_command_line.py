from __future__ import annotations

import sys
from importlib import import_module

import pytest

from benchmarks import command_line
from testing.repository import REPOSITORY

PROGRAMS = [
    path.stem
    for path in sorted((REPOSITORY / "benchmarks").glob("*.py"))
    if "__main__" in path.read_text()
]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_benchmark_asked_for_help_explains_itself_and_measures_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    assert str(module.__doc__).splitlines()[0] in capsys.readouterr().out


@pytest.mark.parametrize("name", ["classify", "gateway", "overhead", "serving", "sweep"])
def test_a_benchmark_without_its_load_generator_says_how_to_install_it(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit) as ended:
        command_line.run(import_module(f"benchmarks.{name}").main)
    assert ended.value.code == 2
    assert "apt-get install wrk" in capsys.readouterr().err


def test_ctrl_c_ends_a_benchmark_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        command_line.run(interrupted)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
