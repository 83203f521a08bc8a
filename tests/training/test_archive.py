from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from testing.repository import REPOSITORY
from training.archive import archive
from training.files import UsageError
from training.release import card_of, next_version, write


@pytest.fixture(scope="module")
def built(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model_store") / "catsdogs.mar"
    assert archive(weights, "2.5", path) == "2.5"
    return path


def test_the_archive_holds_the_handler_the_weights_and_what_they_import(built: Path) -> None:
    modules = {f"handler/{path.name}" for path in (REPOSITORY / "handler").glob("*.py")}
    with zipfile.ZipFile(built) as file:
        assert sorted(file.namelist()) == sorted(
            [
                "MAR-INF/MANIFEST.json",
                "catsdogs.json",
                "catsdogs.pt",
                "catsdogs_handler.py",
                "int8/graph.bin",
                "int8/graph.xml",
                "model-config.yaml",
                "training/__init__.py",
                "training/model.py",
                *(modules - {"handler/catsdogs_handler.py"}),
            ]
        )
        manifest = json.loads(file.read("MAR-INF/MANIFEST.json"))
    assert manifest["model"]["modelName"] == "catsdogs"
    assert manifest["model"]["modelVersion"] == "2.5"
    assert manifest["model"]["handler"] == "catsdogs_handler.py"


def test_nothing_but_the_archive_and_its_checksum_is_left(built: Path) -> None:
    digest = hashlib.sha256(built.read_bytes()).hexdigest()
    checksum = built.with_name("catsdogs.mar.sha256")
    assert checksum.read_text() == f"{digest}  catsdogs.mar\n"
    assert sorted(built.parent.iterdir()) == [built, checksum]


def test_the_handler_works_where_the_repository_is_not_importable(
    built: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(built) as file:
        file.extractall(tmp_path)
    program = """
import catsdogs_handler, handler.photo, training.model
from ts.context import Context, RequestProcessor
for module in (catsdogs_handler, handler.photo, training.model):
    assert module.__file__.startswith({folder!r}), module.__file__
context = Context("catsdogs", ".", {{"model": {{"modelVersion": "2.5"}}}}, 1, None, None)
handler = catsdogs_handler.CatsDogsHandler()
handler.initialize(context)
context.request_processor = [RequestProcessor({{}})]
print(handler.handle([{{"body": open({photo!r}, "rb").read()}}], context)[0]["model_version"])
""".format(folder=str(tmp_path), photo=str(Path("tests/pictures/cat.jpg").resolve()))
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.stdout == "2.5\n", result.stderr


def test_the_packed_description_tells_the_digests_of_weights_and_graph(
    built: Path, weights: Path
) -> None:
    with zipfile.ZipFile(built) as file:
        card = json.loads(file.read("catsdogs.json"))
        names = ("catsdogs.pt", "int8/graph.bin", "int8/graph.xml")
        digests = {name: hashlib.sha256(file.read(name)).hexdigest() for name in names}
    assert card.pop("graph_sha256") == {name: digests[name] for name in names[1:]}
    assert card["sha256"] == digests["catsdogs.pt"]
    assert card == json.loads(weights.with_suffix(".json").read_text())


def test_a_module_of_the_handler_defines_one_class_as_torchserve_demands() -> None:
    from ts.utils.util import list_classes_from_module

    from handler import catsdogs_handler

    assert list_classes_from_module(catsdogs_handler) == [catsdogs_handler.CatsDogsHandler]


def copy(weights: Path, folder: Path) -> Path:
    for path in (weights, weights.with_suffix(".json")):
        shutil.copy(path, folder)
    return folder / weights.name


def refuse(weights: Path, output: Path, message: str) -> None:
    """The archive is refused with `message`, and nothing is written."""
    with pytest.raises(UsageError, match=message):
        archive(weights, None, output)
    assert not output.parent.exists()


def test_weights_that_do_not_fit_are_refused_and_nothing_is_written(
    weights: Path, tmp_path: Path
) -> None:
    output = tmp_path / "store/catsdogs.mar"
    refuse(tmp_path / "none.pt", output, r"none\.pt: missing")
    spoiled = copy(weights, tmp_path)
    with spoiled.open("ab") as file:
        file.write(b"more")
    refuse(spoiled, output, "sha256")

    card = json.loads(weights.with_suffix(".json").read_text())

    def describe(**changes: object) -> None:
        digest = hashlib.sha256(spoiled.read_bytes()).hexdigest()
        text = json.dumps({**card, "sha256": digest, **changes})
        spoiled.with_suffix(".json").write_text(text)

    state = torch.load(weights, weights_only=True)
    torch.save(state, spoiled)
    describe(classes=["ant", "cat", "dog"])
    refuse(spoiled, output, "not a state dict of SimpleCNN.*fc3")
    describe(input_size=192)
    refuse(spoiled, output, r"catsdogs\.json: input_size .* is 192, but photos are decoded to 224")
    torch.save({name: t for name, t in state.items() if name != "fc1.bias"}, spoiled)
    describe()
    refuse(spoiled, output, "not a state dict of SimpleCNN.*fc1.bias")
    for content in ("text", ""):
        spoiled.write_text(content)
        describe()
        refuse(spoiled, output, "not a PyTorch file of tensors")
    for card_text in ("{}", "text", "[]"):
        spoiled.with_suffix(".json").write_text(card_text)
        refuse(spoiled, output, r"catsdogs\.json: (needs activation_ranges|can't be read)")


@pytest.mark.parametrize("version", ["", "a/b", "1 0", "..", "1.0-beta", "1."])
def test_a_version_that_does_not_fit_a_url_is_refused(
    weights: Path, tmp_path: Path, version: str
) -> None:
    with pytest.raises(UsageError, match="give numbers with dots"):
        archive(weights, version, tmp_path / "store/catsdogs.mar")


def test_folders_in_the_way_are_named_and_nobodys_files_are_touched(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    theirs = tmp_path / "catsdogs/theirs"
    theirs.parent.mkdir()
    theirs.touch()
    (tmp_path / "b.mar.sha256").mkdir()
    for output in (tmp_path / "catsdogs", tmp_path / "b.mar"):
        with pytest.raises(UsageError, match="is a folder"):
            archive(weights, None, output)
    archive(weights, None, tmp_path / "a.mar")
    assert theirs.exists()


def test_a_pickle_that_runs_code_is_refused_unrun(weights: Path, tmp_path: Path) -> None:
    import pickle

    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    spoiled = copy(weights, tmp_path)
    spoiled.write_bytes(pickle.dumps(Attack()))
    card = json.loads(weights.with_suffix(".json").read_text())
    card["sha256"] = hashlib.sha256(spoiled.read_bytes()).hexdigest()
    spoiled.with_suffix(".json").write_text(json.dumps(card))
    refuse(spoiled, tmp_path / "store/catsdogs.mar", "not a PyTorch file of tensors")
    assert not (tmp_path / "ran").exists()


def test_each_release_raises_the_version(tmp_path: Path) -> None:
    card = tmp_path / "catsdogs.json"
    assert next_version(card) == "1.0"
    card.write_text('{"version": "1.9"}')
    assert next_version(card) == "1.10"


def release(run: Path, weights: Path, version: str | None) -> dict[str, Any]:
    """As `publish` does, without what describes the weights."""
    card = card_of(run, weights, version)
    write(run, weights, card)
    return card


def test_a_run_is_released_only_when_evaluated(weights: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    released = tmp_path / "models/catsdogs.pt"
    with pytest.raises(UsageError, match="training evaluate"):
        release(run, released, None)
    shutil.copy(weights, run / "best.pt")
    card = json.loads(weights.with_suffix(".json").read_text()) | {"version": "0.0"}
    (run / "best.json").write_text(json.dumps({n: v for n, v in card.items() if n != "params"}))
    with pytest.raises(UsageError, match="of another version"):
        release(run, released, None)
    (run / "best.json").write_text(json.dumps(card | {"sha256": "x"}))
    with pytest.raises(UsageError, match="sha256 is not the one in"):
        release(run, released, None)
    (run / "best.json").write_text(json.dumps(card))
    with pytest.raises(UsageError, match="give numbers"):
        release(run, released, "new")
    assert not released.parent.exists()
    assert release(run, released, None) == card | {"version": "1.0"}
    assert json.loads(released.with_suffix(".json").read_text()) == card | {"version": "1.0"}
    assert release(run, released, None)["version"] == "1.1"
    assert release(run, released, "1.0")["version"] == "1.0"
    output = tmp_path / "store/catsdogs.mar"
    assert archive(tmp_path / "models/catsdogs.pt", None, output) == "1.0"
