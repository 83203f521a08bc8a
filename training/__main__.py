"""Train, evaluate, release and archive the classifier, or classify photos without a server."""

from __future__ import annotations

import argparse
import io
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from files.walk import on_one_line
from training.files import UsageError
from training.params import load_params

if TYPE_CHECKING:
    import torch

# Each command imports its own modules, so that serving doesn't need the packages of training.


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Return 0 on success, 2 with one line on stderr for wrong input."""
    words = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files need not be UTF-8
    options = parser().parse_args(words, argparse.Namespace(words=words))
    try:
        return int(options.command(options) or 0)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # no space, no permission, a folder instead of a file
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
        help="one or more data folders, each with one folder of photos per class; a folder "
        "`unlabelled` is not a class (default: data.folder of --params)",
    )
    prepare.add_argument(
        "--classes",
        nargs="+",
        metavar="CLASS",
        help="class folders to use, or class names with which file names in FOLDER begin, such as "
        "cat.1.jpg (default: data.classes of --params; if that is empty, all folders)",
    )
    teach = add("teach", run_teach, "compute what the teacher network sees in the training photos")
    train = add("train", run_train, "train on the prepared photos")
    path(train, "--run", "runs/train", "folder for checkpoint, best weights and history")
    train.add_argument(
        "--finetune",
        type=Path,
        metavar="START",
        help="start from the best weights of a finished run, or from a file such as "
        "models/catsdogs.pt, with the values of section finetune",
    )
    again = train.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue an interrupted run")
    again.add_argument(
        "--resume-or-replace",
        action="store_true",
        help="continue it, or start again if it is finished or parameters or photos have changed",
    )
    train.add_argument("--no-mlflow", action="store_true", help="don't log the run to MLflow")
    evaluate = add("evaluate", run_evaluate, "calibrate a run and measure it on the test split")
    evaluate.add_argument("run", type=Path, metavar="RUN", help="folder of a trained run")
    release = add("release", run_release, "publish the best weights of a run in models/")
    release.add_argument("run", type=Path, metavar="RUN", help="folder of an evaluated run")
    release.add_argument("--version", help="default: the released version, last number plus 1")
    archive = add("archive", run_archive, "bundle weights and handler for TorchServe")
    archive.add_argument("--version", help="default: the version in the JSON file of the weights")
    path(release, "--model-card", "docs/MODEL_CARD.md", "model card to write")
    path(release, "--readme", "README.md", "file whose figures to update")
    path(release, "--rules", "monitoring/drift_rules.yml", "Prometheus rules to write")
    path(release, "--chart", "helm/catsdogs/Chart.yaml", "chart whose appVersion to update")
    path(archive, "--output", "model_store/catsdogs.mar", "archive to write")
    predict = add("predict", run_predict, "classify photos without a server")
    predict.add_argument("files", nargs="+", type=Path, metavar="FILE")
    for sub in (teach, train):
        path(sub, "--teacher-stats", "runs/teacher", "folder that `teach` writes")
    for sub in (prepare, teach, train, evaluate):
        path(sub, "--index", "runs/index", "folder that `prepare` writes")
        path(sub, "--params", "params.yaml", "file with the parameters")
    for sub in (teach, train, evaluate):
        sub.add_argument(
            "--device",
            default="auto",
            help="cpu, cuda, cuda:N, mps, or auto: a CUDA GPU if there is one (default: auto)",
        )
    for sub in (release, archive, predict):
        path(sub, "--weights", "models/catsdogs.pt", "weights, with JSON file next to them")
    return main_parser


def run_prepare(options: argparse.Namespace) -> None:
    from training.folders import find_files

    params = load_params(options.params)
    data = options.data or [Path(params.data.folder)]
    classes = options.classes or params.data.classes
    find_files(data, classes)  # report wrong folders before imports that take seconds

    from training.prepare import prepare

    prepare(data, options.index, params.prepare, classes)


def run_teach(options: argparse.Namespace) -> None:
    params, device = load_params(options.params).teach, chosen_device(options)

    from training.teach import LABEL_ISSUES, teach

    issues = teach(options.index, options.teacher_stats, params, device)
    print(f"{issues} label issues; see {options.teacher_stats / LABEL_ISSUES}")


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
            teacher_stats=options.teacher_stats,
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
    """The device of --device, checked before imports that take seconds."""
    if options.device == "mps":  # PyTorch reads it at import
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

    from training.devices import choose_device

    return choose_device(options.device)


def how_to_go_on(options: argparse.Namespace) -> str:
    """How to resume an interrupted training: a command, or when to run the same one."""
    from training.checkpoint import CHECKPOINT
    from training.devices import world_size

    if not (options.run / CHECKPOINT).exists():
        return "no epoch is finished; run the same command again"
    if world_size() > 1:
        return "run the same command with --resume to continue"
    words = [word for word in options.words if not word.startswith("--resume")]
    line = shell_line(*words, "--resume")
    return f"continue with `{line}`, or add RESUME=1 to your `make train` command"


def shell_line(*words: str | Path) -> str:
    """`python -m training` with `words`, quoted for a shell."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    return shlex.join([str(python), "-m", "training", *map(str, words)])


def run_evaluate(options: argparse.Namespace) -> None:
    params, device = load_params(options.params), chosen_device(options)

    from training.evaluate import evaluate, format_metrics, guessing_warning

    test = evaluate(options.index, options.run, params, device)["metrics"]["test"]
    print(format_metrics(test))
    print(guessing_warning(test) or f"release it with: {shell_line('release', options.run)}")


def run_release(options: argparse.Namespace) -> None:
    from training.release import Homes, publish

    homes = Homes(options.weights, options.model_card, options.readme, options.rules, options.chart)
    print(publish(options.run, homes, options.version))


def run_archive(options: argparse.Namespace) -> None:
    from training.archive import archive, check_code

    check_code()
    version = archive(options.weights, options.version, options.output)
    print(f"{options.output}: version {version}")


def run_predict(options: argparse.Namespace) -> int:
    if not any(file.is_file() for file in options.files):  # before slow imports, too
        wrong = "a folder" if options.files[0].is_dir() else "no such file"
        raise UsageError(f"{options.files[0]}: {wrong}; give the path of a photo")

    from training.predict import predict

    failed = False
    for file, answer in predict(options.files, options.weights):
        name = on_one_line(str(file))
        if "label" in answer:
            sure = "" if answer["certain"] else " (not sure)"
            print(f"{name}: {answer['label']} {answer['confidence']:.4f}{sure}")
        else:
            failed = True
            print(f"{name}: {answer['message']}", file=sys.stderr)
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
