"""Files, anchors, targets, options, figures and commands in the documents exist."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from PIL import Image

from testing.repository import REPOSITORY
from training.__main__ import main, parser

README = (REPOSITORY / "README.md").read_text()
DOCUMENTS = sorted(
    path
    for folder in (".", "docs", "monitoring", "helm/catsdogs")
    for path in (REPOSITORY / folder).glob("*.md")
)
# The file that runs each command of README.md and CONTRIBUTING.md, by how the command begins. None:
# no file, since tests set PATH instead, or it takes an hour.
RUN_BY = {
    "curl ": "tests/e2e/test_readme.py",
    ".venv/bin/python tools/": "tests/e2e/test_readme.py",
    ".venv/bin/python -m training archive": "tests/e2e/test_readme.py",
    ".venv/bin/python -m training predict": "tests/e2e/test_readme.py",
    ".venv/bin/python -m training release": "tests/training/test_pipeline.py",
    ". .venv/bin/activate": None,
    "torchserve --": "tests/e2e/test_torchserve.py",
    "helm install": ".github/workflows/ci.yml",
    "helm test": ".github/workflows/ci.yml",
    "make demo": ".ci/run",
    "make stop": ".ci/run",
    "make lint": ".ci/run",
    "make train": "tests/test_documents.py",
    ".venv/bin/python -m pytest": "Makefile",
    "PATH=$PWD/.venv/bin:$PATH mutmut": None,
}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for link in links(document):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def links(document: Path) -> list[str]:
    """The targets of links and pictures in a Markdown file."""
    tokens = [
        child
        for token in MarkdownIt().enable("table").parse(document.read_text())
        for child in token.children or []
    ]
    return [
        str(token.attrs[name])
        for token in tokens
        for name in ("href", "src")
        if name in token.attrs
    ]


def anchors(document: Path) -> set[str]:
    """Anchors of headings: lower case, hyphens between words."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_only_targets_and_files_are_named_that_there_are(document: Path) -> None:
    text = document.read_text()
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert f"\n{target}:" in makefile, target
    folders = (
        "benchmarks|docs|files|gateway|handler|helm|models|monitoring|testing|tests|tools|training"
    )
    for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", text):
        assert (REPOSITORY / path).exists(), path
    assert "@@" not in text


def test_only_options_are_given_that_the_commands_know(capsys: pytest.CaptureFixture[str]) -> None:
    for document in DOCUMENTS:
        for command, rest in re.findall(r"-m training ([a-z]+)([^\n`]*)", document.read_text()):
            with pytest.raises(SystemExit, match="0"):
                main([command, "--help"])
            explained = capsys.readouterr().out
            for option in re.findall(r"--[a-z]+", rest):
                assert option in explained, (document, command, option)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_command_is_run_somewhere(name: str) -> None:
    for command in commands(REPOSITORY / name):
        (start,) = [start for start in RUN_BY if command.startswith(start)]
        program = start.split()[-1].removeprefix(".venv/bin/").rstrip("-")
        runner = RUN_BY[start]
        assert runner is None or program in (REPOSITORY / runner).read_text(), command


def commands(document: Path) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if not line.startswith("#")]


def given_by_make_train(*variables: str) -> list[list[str]]:
    """The arguments of each `python -m training` that it would run."""
    given = re.findall(r"^\S+ -m training (.*)$", dry_run(*variables), re.MULTILINE)
    return [shlex.split(words) for words in given]


def dry_run(*variables: str) -> str:
    """The commands that `make train` would run."""
    return subprocess.run(
        ["make", "train", *variables, "--dry-run"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


def test_make_train_gives_commands_that_there_are() -> None:
    (line,) = [line for line in commands(REPOSITORY / "README.md") if line.startswith("make train")]
    given = given_by_make_train(*line.split()[2:], "CLASSES=fox wolf")
    names = ["prepare", "teach", "train", "train", "evaluate"]
    assert [words[0] for words in given] == names
    first, *_ = [parser().parse_args(words) for words in given]
    assert first.classes == ["fox", "wolf"]
    assert first.data == [Path("data/photos")]


def test_make_train_starts_from_weights_that_are_named() -> None:
    given = given_by_make_train("RUN=runs/my own", "START=models/catsdogs.pt")
    assert [words[0] for words in given] == ["prepare", "teach", "train", "evaluate"]
    training = parser().parse_args(given[2])
    assert training.run == Path("runs/my own-finetuned")
    assert training.finetune == Path("models/catsdogs.pt")


def test_make_train_goes_on_with_what_is_left_when_asked(tmp_path: Path) -> None:
    run = tmp_path / "my own"
    for finished in (run, tmp_path / "my own-finetuned"):
        finished.mkdir()
        (finished / "checkpoint.pt").touch()
        (refusal,) = re.findall("^echo (.*)$", dry_run(f"RUN={run}"), re.MULTILINE)[-1:]
        assert "contains a run; name another (RUN=...), or continue it (RESUME=1)" in refusal
        resumed = [
            words[2]
            for words in given_by_make_train(f"RUN={run}", "RESUME=1")
            if "--resume" in words
        ]
        assert resumed[-1] == str(finished)
    names = [words[0] for words in given_by_make_train(f"RUN={run}", "RESUME=1")]
    assert names == ["train", "train", "evaluate"]


def test_make_train_names_the_run_that_there_is(tmp_path: Path) -> None:
    finetuned = tmp_path / "mine-finetuned"
    finetuned.mkdir()
    (finetuned / "checkpoint.pt").touch()
    for start in ("START=", "START=models/catsdogs.pt"):
        (refusal,) = re.findall("^echo error: (.*)$", dry_run(f"RUN={tmp_path}/mine", start), re.M)
        assert shlex.split(refusal)[0] == str(finetuned)


def test_each_decisions_figures_stand_in_the_file_that_it_names() -> None:
    text = (REPOSITORY / "docs/architecture.md").read_text()
    rows = re.findall(r"^\|(.*)\|.*\[.*\]\((.*)\) \|$", text, re.MULTILINE)
    assert len(rows) > 10
    for claim, name in rows:
        source = (REPOSITORY / "docs" / name).read_text()
        for figure in re.findall(r"\d+(?:\.\d+)?", claim):
            assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d]|\.\d)", source), (
                claim,
                figure,
            )


def test_the_photo_of_a_dog_carries_the_licence_that_notice_tells() -> None:
    with Image.open(REPOSITORY / "gateway/page/examples/dog.jpg") as photo:
        licence = photo.info["comment"].decode()
    assert licence.startswith("MIT License\n\nCopyright (c) ")
    assert licence in (REPOSITORY / "NOTICE").read_text()


def test_the_changelog_begins_with_the_released_version() -> None:
    version = json.loads((REPOSITORY / "models/catsdogs.json").read_text())["version"]
    headings = re.findall(r"^## (.*)$", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [heading for heading in headings if not heading.startswith("Since")]
    assert released[0].split()[0] == version
