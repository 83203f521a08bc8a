from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import REPOSITORY
from training.card import FIGURES, summary, write_model_card

CARD = json.loads((REPOSITORY / "models/catsdogs.json").read_text())


def test_the_model_card_is_the_one_of_the_released_weights(tmp_path: Path) -> None:
    write_model_card(CARD, tmp_path / "card.md")
    assert (tmp_path / "card.md").read_text() == (REPOSITORY / "docs/MODEL_CARD.md").read_text()


def test_the_readme_has_the_figures_of_the_released_weights() -> None:
    text = (REPOSITORY / "README.md").read_text()
    marked = text.split(f"<!-- {FIGURES} -->")[1].split(f"<!-- end of {FIGURES} -->")[0]
    assert marked.strip() == summary(CARD)
