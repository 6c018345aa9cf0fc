"""The `mimsuite` command: finds the task and hands the process over to it."""

import os
import re
import sys
import time
from difflib import get_close_matches

from mimsuite.version import __version__

TASKS = {
    "pretrain": "masked image modeling: pretrain an encoder on images without labels",
    "probe": "kNN and linear probe of a frozen encoder",
    "finetune": "supervised fine-tuning, or training from scratch; metrics on the test split at the end",
    "evaluate": "metrics of a trained classifier or of a pretraining run, and the worst mistakes",
    "embed": "features of every image in a file (.npz, .parquet, .csv), and a map of them",
    "reconstruct": "picture of original, masked input, prediction, paste and error",
    "plot": "curves of one or several runs in one picture",
    "pack": "image folder -> WebDataset shards and index",
    "inspect": "counts, classes, sizes, statistics and a contact sheet of a data set",
    "models": "table of model configs",
    "doctor": "versions, devices and traps of this environment",
    "demo": "every step once, on the embedded data set",
}

PATH_KEYS = ("data", "init", "out", "src", "images", "runs", "csv", "map")
LIST_KEYS = ("runs",)  # of these: what may also be a list of paths
OVERRIDE = re.compile(r"[~+]|[^-=][^=]*=")


def quote_path(argument: str) -> str:
    """Quotes the value of a path key for Hydra's grammar, so that spaces, `=`, commas and braces need no quotes.

    A list of paths is quoted path by path. Other arguments, and values that are empty, `null`, `???` or quoted already,
    come back as they are.
    """
    key, equals, value = argument.partition("=")
    bare = key.lstrip("+")
    if not equals or bare not in PATH_KEYS or value in ("", "null", "???"):
        return argument
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return argument
    if bare in LIST_KEYS and value[0] == "[" and value[-1] == "]":
        paths = [path.strip() for path in value[1:-1].split(",")]
        if not all(paths) or set(value) & set("'\""):
            return argument
        return f"{key}=[{','.join(map(quote, paths))}]"
    return f"{key}={quote(value)}"


def quote(value: str) -> str:
    r"""A string as a single-quoted Hydra value: `'` and `${` escaped, and backslashes where they would escape."""
    value = value.replace("${", "\\${")
    out = ""
    for i, char in enumerate(value):
        if char == "'":
            slashes = len(out) - len(out.rstrip("\\"))
            out += "\\" * slashes + "\\'"
        else:
            out += char
        if i == len(value) - 1:
            slashes = len(out) - len(out.rstrip("\\"))
            out += "\\" * slashes
    return f"'{out}'"


def flags_first(arguments: list[str]) -> list[str]:
    """Hydra's parser wants its own flags (`--cfg job`) before or after all `key=value`, not between them."""
    overrides = [a for a in arguments if OVERRIDE.match(a)]
    return [a for a in arguments if not OVERRIDE.match(a)] + overrides


def usage() -> str:
    """The text of `mimsuite --help`."""
    rows = "\n".join(f"  {name:12} {text}" for name, text in TASKS.items())
    return f"""mimsuite {__version__}: from images without labels to a pretrained, probed vision encoder.

usage: mimsuite TASK key=value ...

{rows}

  mimsuite demo                                   run every step once, on the embedded data set
  mimsuite pretrain data=photos/ out=runs/photos  pretrain on a folder of images
  mimsuite TASK --help                            keys, defaults and examples of a task
  mimsuite TASK --cfg job --resolve               the composed configuration

Exit codes: 0 done, 1 failed, 2 bad configuration or input, 130 interrupted, 143 terminated."""


def main() -> None:
    """Entry point of the console command; replaces this process by the task's."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0 if arguments else 2)
    if arguments[0] in ("-V", "--version"):
        print(__version__)
        sys.exit(0)
    task = arguments[0]
    if task not in TASKS:
        guess = get_close_matches(task, TASKS, n=1)
        hint = f"did you mean {guess[0]}? " if guess else ""
        print(f"mimsuite: unknown task {task!r}; {hint}tasks are {', '.join(TASKS)}", file=sys.stderr)
        sys.exit(2)
    os.environ["MIMSUITE_STARTED"] = str(time.time())
    command = [sys.executable, "-m", f"mimsuite.tasks.{task}", *map(quote_path, flags_first(arguments[1:]))]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
