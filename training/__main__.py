"""The command line: python -m training prepare|teach|train|evaluate|release|archive|predict."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from training.errors import UsageError
from training.params import load_params

if TYPE_CHECKING:
    import torch

# Each command imports what it needs, so that serving needs nothing of training's packages.


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 with one line on stderr when the input is wrong."""
    words = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(words, argparse.Namespace(words=words))
    try:
        return int(options.command(options) or 0)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # no space, no permission, a folder in a file's place
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    main_parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = main_parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: object, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    def path(sub: argparse.ArgumentParser, name: str, default: str, text: str) -> None:
        sub.add_argument(
            name, type=Path, default=Path(default), help=f"{text} (default: {default})"
        )

    prepare = add("prepare", run_prepare, "index, check, split and decode folders of photos")
    prepare.add_argument(
        "--data",
        nargs="+",
        action="extend",
        type=Path,
        metavar="FOLDER",
        help="folder with one folder of photos for each class, or several such; one called "
        "`unlabelled` is no class (default: data.folder of --params)",
    )
    prepare.add_argument(
        "--classes",
        nargs="+",
        metavar="CLASS",
        help="folders to take, or what the names of photos in FOLDER begin with, as cat.1.jpg "
        "(default: data.classes of --params, and of none, all folders)",
    )
    teach = add("teach", run_teach, "learn what a public network sees in the training photos")
    train = add("train", run_train, "train on the prepared photos")
    path(train, "--run", "runs/train", "folder for checkpoint, best weights and history")
    train.add_argument(
        "--finetune",
        type=Path,
        metavar="START",
        help="start from a finished run's best weights, or from a file such as models/catsdogs.pt, "
        "with the numbers of section finetune",
    )
    again = train.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue an interrupted run")
    again.add_argument(
        "--resume-or-replace",
        action="store_true",
        help="continue it, or start anew where its parameters or photos were others",
    )
    train.add_argument("--no-mlflow", action="store_true", help="don't log the run to MLflow")
    evaluate = add("evaluate", run_evaluate, "calibrate a run and measure it on the test split")
    evaluate.add_argument("run", type=Path, metavar="RUN", help="folder of a trained run")
    release = add("release", run_release, "make a run's best weights the released ones")
    release.add_argument("run", type=Path, metavar="RUN", help="folder of an evaluated run")
    release.add_argument("--version", help="default: the released one, its last number raised")
    archive = add("archive", run_archive, "bundle weights and handler for TorchServe")
    archive.add_argument("--version", help="default: the version in the JSON file of the weights")
    path(release, "--model-card", "docs/MODEL_CARD.md", "model card to write")
    path(release, "--readme", "README.md", "file whose figures are renewed")
    path(release, "--rules", "monitoring/drift_rules.yml", "Prometheus rules to write")
    path(release, "--chart", "helm/catsdogs/Chart.yaml", "chart whose appVersion is renewed")
    path(archive, "--output", "model_store/catsdogs.mar", "archive to write")
    predict = add("predict", run_predict, "classify photos without a server")
    predict.add_argument("files", nargs="+", type=Path, metavar="FILE")
    for sub in (teach, train):
        path(sub, "--lesson", "runs/lesson", "folder that `teach` writes")
    for sub in (prepare, teach, train, evaluate):
        path(sub, "--index", "runs/index", "folder that `prepare` writes")
        path(sub, "--params", "params.yaml", "file with the numbers")
    for sub in (teach, train, evaluate):
        sub.add_argument(
            "--device",
            default="auto",
            help="cpu, cuda, cuda:N, mps, or auto: a CUDA GPU where there is one (default: auto)",
        )
    for sub in (release, archive, predict):
        path(sub, "--weights", "models/catsdogs.pt", "weights, with their JSON file beside them")
    return main_parser


def run_prepare(options: argparse.Namespace) -> None:
    from training.folders import find_files

    params = load_params(options.params)
    data = options.data or [Path(params.data.folder)]
    classes = options.classes or params.data.classes
    find_files(data, classes)  # what is wrong there is told before imports that take seconds

    from training.data import prepare

    prepare(data, options.index, params.prepare, classes)


def run_teach(options: argparse.Namespace) -> None:
    params, device = load_params(options.params).teach, chosen_device(options)

    from training.teacher import DISPUTED, teach

    disputed = teach(options.index, options.lesson, params, device)
    print(f"{disputed} disputed labels, listed in {options.lesson / DISPUTED}")


def run_train(options: argparse.Namespace) -> None:
    from contextlib import nullcontext

    sections = load_params(options.params)
    params = sections.finetune if options.finetune else sections.train
    device = chosen_device(options)

    from training.train import Tracker, train

    tracker: Tracker = nullcontext(lambda row: None)
    if not options.no_mlflow:
        from training.tracking import mlflow_tracker

        tracker = mlflow_tracker(options.run, options.index, params, device)
    try:
        train(
            options.index,
            options.run,
            params,
            lesson=options.lesson,
            start=options.finetune,
            resume=options.resume or options.resume_or_replace,
            replace=options.resume_or_replace,
            tracker=tracker,
            device=device,
        )
    except KeyboardInterrupt:
        print(f"\n{options.run}: {how_to_go_on(options)}", file=sys.stderr)
        raise


def chosen_device(options: argparse.Namespace) -> torch.device:
    """Of --device, before imports that take seconds."""
    if options.device == "mps":  # read by PyTorch when it is imported
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

    from training.hardware import choose_device

    return choose_device(options.device)


def how_to_go_on(options: argparse.Namespace) -> str:
    """The command that does, for a training that was interrupted."""
    from training.checkpoint import CHECKPOINT
    from training.distributed import world_size

    if not (options.run / CHECKPOINT).exists():
        return "no epoch was finished; give the same command again"
    if world_size() > 1:
        return "go on by the same command with --resume"
    words = [word for word in options.words if not word.startswith("--resume")]
    line = shell_line(*words, "--resume")
    return f"go on with `{line}`, or with RESUME=1 where you gave `make train`"


def shell_line(*words: str | Path) -> str:
    """`python -m training` with `words`, as a shell takes them."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    return shlex.join([str(python), "-m", "training", *map(str, words)])


def run_evaluate(options: argparse.Namespace) -> None:
    params, device = load_params(options.params), chosen_device(options)

    from training.evaluate import doubt, evaluate, format_figures

    test = evaluate(options.index, options.run, params, device)["figures"]["test"]
    print(format_figures(test))
    print(doubt(test) or f"release it with: {shell_line('release', options.run)}")


def run_release(options: argparse.Namespace) -> None:
    from training.publish import Homes, publish

    homes = Homes(options.weights, options.model_card, options.readme, options.rules, options.chart)
    print(publish(options.run, homes, options.version))


def run_archive(options: argparse.Namespace) -> None:
    from training.packed import check_code

    check_code()  # before the next import, which takes some of that code

    from training.archive import archive

    version = archive(options.weights, options.version, options.output)
    print(f"{options.output}: version {version}")


def run_predict(options: argparse.Namespace) -> int:
    if not any(file.is_file() for file in options.files):  # told before imports, likewise
        raise UsageError(f"{options.files[0]}: no such file")

    from training.predict import predict

    failed = False
    for file, answer in predict(options.files, options.weights):
        if "label" in answer:
            sure = "" if answer["certain"] else " (not sure)"
            print(f"{file}: {answer['label']} {answer['confidence']:.4f}{sure}")
        else:
            failed = True
            print(f"{file}: {answer['message']}", file=sys.stderr)
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
