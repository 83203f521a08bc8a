"""What the command lines of the benchmarks have in common."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from typing import NoReturn

from training.files import UsageError


def parser(about: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def needs(program: str, package: str) -> None:
    """Raises UsageError if `program`, of a package of Debian and Homebrew, is missing."""
    if not shutil.which(program):
        raise UsageError(
            f"{program} is missing; install it with `apt-get install {package}` or "
            f"`brew install {package}`"
        )


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call `main` and exit; usage and system errors and Ctrl-C end without a traceback."""
    try:
        sys.exit(main())
    except (OSError, UsageError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
