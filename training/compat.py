"""Earlier names of keys and files; all other code uses the current names.

They occur in models/catsdogs.json of 1.1, and in runs, indexes and params.yaml from before 2.0.
Nothing is written under an earlier name.
"""

from __future__ import annotations

from typing import Any

Names = dict[tuple[str, ...], str]  # the current name of the key at each path

CARD: Names = {  # of models/catsdogs.json, and best.json of a run
    ("figures",): "metrics",
    ("strangeness",): "ood_score",
    ("reference", "quantities"): "drift_features",
    ("params", "evaluate", "familiar_share"): "in_distribution_share",
}
CHECKPOINT: Names = {("pupil",): "student_heads"}
PARAMS: Names = {  # of params.yaml
    ("teach", "disputed_probability"): "label_issue_probability",
    ("evaluate", "familiar_share"): "in_distribution_share",
}
FILES = {"rejected.csv": "doubtful.csv"}


def renamed(content: Any, names: Names) -> Any:
    """`content`, read from a file, with keys at these paths renamed to their current names.

    A key stays as it is if its current name exists too.
    """
    if not isinstance(content, dict) or not names:
        return content
    changed = {}
    for key, value in content.items():
        inner = {path[1:]: name for path, name in names.items() if path[0] == key and path[1:]}
        name = names.get((key,), key)
        changed[key if name in content else name] = renamed(value, inner)
    return changed
