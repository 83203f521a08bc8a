from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import REPOSITORY
from training.card import FIGURES, summary, wrapped, write_between_marks, write_model_card

CARD = json.loads((REPOSITORY / "models/catsdogs.json").read_text())


def test_the_model_card_is_the_one_of_the_released_weights(tmp_path: Path) -> None:
    write_model_card(CARD, tmp_path / "card.md")
    assert (tmp_path / "card.md").read_text() == (REPOSITORY / "docs/MODEL_CARD.md").read_text()


def test_the_readme_has_the_figures_of_the_released_weights() -> None:
    text = (REPOSITORY / "README.md").read_text()
    marked = text.split(f"<!-- {FIGURES} -->")[1].split(f"<!-- end of {FIGURES} -->")[0]
    assert marked.strip() == summary(CARD)


def test_only_what_lies_between_the_marks_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "text.md"
    file.write_text("before\n<!-- x -->\nold\n<!-- end of x -->\nafter\n")
    for _ in range(2):
        write_between_marks(file, "x", "new")
        assert file.read_text() == ("before\n<!-- x -->\n\nnew\n\n<!-- end of x -->\nafter\n")
    write_between_marks(file, "y", "new")
    assert "new\n\n<!-- end of x" in file.read_text()
    write_between_marks(tmp_path / "none.md", "x", "new")
    assert not (tmp_path / "none.md").exists()


def test_paragraphs_are_wrapped_and_tables_are_not() -> None:
    table = f"| {'cell ' * 40}|\n| --- |"
    text = wrapped(f"{'word ' * 40}\n\n{table}\n\n1. {'step ' * 40}")
    paragraph, *others = text.split("\n\n")
    assert max(map(len, paragraph.splitlines())) <= 100
    assert others == [table, f"1. {'step ' * 40}"]
