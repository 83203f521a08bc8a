"""sources.csv, and the model card's section on the sources of the photos."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.markdown import wrapped
from training.model_card import write_model_card
from training.sources import IN_TABLE, TABLE, known_sources, photos
from training.weights import read_card

# Of runs that didn't count their sources.
OLD = read_card(Path(__file__).with_name("catsdogs-1.1.json"))
with TABLE.open(newline="") as file:
    ROWS = list(csv.DictReader(file))
KNOWN = [row["source"] for row in ROWS]
OXFORD, BOT = "naveen-dodda-oxford", "TheGamer3514-random-codes"
COUNTS = st.dictionaries(
    st.sampled_from(KNOWN) | st.from_regex("[a-z]{1,9}", fullmatch=True),
    st.integers(1, 99_999),
    min_size=1,
)


def card_of(sources: dict[str, int], **training: Any) -> dict[str, Any]:
    """A card, as if trained on photos of these sources."""
    about = {"before": None, "photos_sha256": "0" * 64, "photos": sum(sources.values())}
    return OLD | {"training": OLD["training"] | about | {"sources": sources} | training}


def number(text: str) -> int:
    return int(text.replace(",", ""))


def test_each_source_is_listed_once_with_its_repository_commit_and_licence() -> None:
    assert len(KNOWN) == len(set(KNOWN)) > 100
    for row in ROWS:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+(, [\w.-]+/[\w.-]+)*", row["repository"]), row
        assert re.fullmatch("[0-9a-f]{40}", row["commit"]) or row["source"] == "photos"
        assert row["licence"]
        assert row["photos_of"]
        assert not re.search(r"[|\n]", "".join(row.values()))


@given(COUNTS)
def test_no_source_and_no_photo_is_left_out(counts: dict[str, int]) -> None:
    known, text = known_sources(counts), photos(card_of(counts))
    rows = re.findall(r"^\| .* \| ([\d,]+) \|$", text, re.MULTILINE)
    assert len(rows) == min(len(known), IN_TABLE)
    others = re.findall(r" \(([\d,]+)\)", text)
    assert sum(map(number, rows + others)) == sum(counts.values())
    assert len(rows + others) == len(counts)
    for name, row in known.items():
        assert f"{row.repository}@{row.commit[:8]}" in text or name == "photos"
        assert row.licence in text
    for name in counts.keys() - known.keys():
        assert f" {name} ({counts[name]:,})" in text


def test_the_largest_known_sources_are_in_the_table_and_the_others_grouped_by_licence() -> None:
    counts = {name: 1000 - place for place, name in enumerate(KNOWN)} | {"mine": 5000}
    text = photos(card_of(counts))
    assert re.findall(r"^\| (\S+) \|.* \d", text, re.MULTILINE) == KNOWN[:IN_TABLE]
    assert re.search(r"^Licence unknown, \d+ more sources?: mine \(5,000\)", text, re.MULTILINE)
    groups = re.findall(r"^Licence (.+), \d+ more sources?: ", text, re.MULTILINE)
    assert len(groups) == len(set(groups)) > 3


def test_a_folder_called_photos_is_the_kaggle_one_only_with_other_known_sources() -> None:
    alone = photos(card_of({"photos": 240, "mine": 3}))
    assert alone == (
        "## Photos\n\nThe 243 training photos (cat, dog) came from 2 sources: "
        "photos (240), mine (3)."
    )
    assert "| photos | 4GeeksAcademy/" in photos(card_of({"photos": 240, OXFORD: 3}))


def test_a_training_that_counted_no_sources_has_no_section(tmp_path: Path) -> None:
    assert photos(OLD) == ""
    write_model_card(OLD, tmp_path / "card.md")
    assert "## Photos" not in (tmp_path / "card.md").read_text()


@pytest.mark.parametrize("counted", [True, False])
def test_sources_of_the_weights_that_it_started_from_are_listed_too(counted: bool) -> None:
    before = card_of({"photos": 40, OXFORD: 30, BOT: 20})["training"] | {"photos_sha256": "1" * 64}
    if not counted:
        del before["sources"]
    text = photos(card_of({"photos": 240}, classes=["kitten", "puppy"], before=before))
    first, second = text.split("Before that, the 90 training photos (cat, dog) came from ")
    assert "The 240 training photos (kitten, puppy) came from one source: photos (240)." in first
    if counted:
        assert second.startswith("3 sources:\n\n| source |")
        assert "| photos | 4GeeksAcademy/" in second
    else:
        assert second == "sources that the run did not record."


def test_sources_of_two_trainings_on_the_same_photos_are_listed_once() -> None:
    first = card_of({OXFORD: 30})["training"]
    assert photos(card_of({OXFORD: 30}, before=first)) == photos(card_of({OXFORD: 30}))


def test_a_source_that_validates_is_listed_with_its_repository() -> None:
    row = {"photos": 384, "accuracy": 0.9, "accuracy_interval": [0.8, 0.95]}
    foreign = OLD["metrics"]["test"] | {"sources": {"linlawre": row, "mine": row}}
    metrics = OLD["metrics"] | {"foreign_validation": foreign}
    text = wrapped(photos(card_of({OXFORD: 30}) | {"metrics": metrics}))
    (listed,) = [part for part in text.split("\n\n") if part.startswith("Used for validation only")]
    assert "linlawre (linlawre/CMPE258_hw1@4f56b0e0" in listed
    assert "384 photos" in listed
    assert "mine" not in listed


def test_names_that_are_not_utf_8_or_mean_something_to_markdown_are_written(tmp_path: Path) -> None:
    counts = {"a|b\nc": 2, "\udcff": 1, OXFORD: 9}
    write_model_card(card_of(counts), tmp_path / "card.md")
    assert r"a\|b c (2), ? (1)" in " ".join((tmp_path / "card.md").read_text().split())
