from __future__ import annotations

import re

import pytest

from tests.conftest import REPOSITORY
from training.__main__ import main

README = (REPOSITORY / "README.md").read_text()


def test_the_readme_names_only_targets_and_files_that_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)", README):
        assert f"\n{target}:" in makefile, target
    for path in re.findall(
        r"`((?:benchmarks|docs|handler|training|models|tools|tests)/[\w./-]*)`", README
    ):
        assert (REPOSITORY / path).exists(), path


def test_nothing_is_left_to_fill_in() -> None:
    assert "@@" not in README


def test_the_readme_gives_only_options_that_the_commands_know(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command, options in re.findall(r"-m training ([a-z]+)([^\n`]*)", README):
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        explained = capsys.readouterr().out
        for option in re.findall(r"--[a-z]+", options):
            assert option in explained, (command, option)
