from __future__ import annotations

from pathlib import Path

from training.markdown import wrapped, write_between_marks


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
