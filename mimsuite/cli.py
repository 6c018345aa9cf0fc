"""The `mimsuite` command: finds the task and hands the process over to it."""

import os
import sys
import time
from difflib import get_close_matches

from mimsuite.config.overrides import repeated_keys, task_arguments
from mimsuite.config.python_path import task_command, task_environment
from mimsuite.data.terminal import tolerate_lost_output
from mimsuite.errors import InputError
from mimsuite.version import __version__

TASKS = {
    "pretrain": "masked image modeling: pretrain an encoder on images without labels",
    "probe": "kNN and linear probe of a frozen encoder",
    "finetune": "supervised fine-tuning, or training from scratch; metrics on the test split at the end",
    "evaluate": "metrics of a trained classifier or of a pretraining run, and the worst mistakes",
    "predict": "classes of images without labels, in a table (.csv, .parquet)",
    "embed": "features of every image in a file (.npz, .parquet, .csv), and a map of them",
    "export": "a model for other programs (Hugging Face, ONNX, torch.export), checked, with a model card",
    "reconstruct": "picture of original, masked input, prediction, paste and error",
    "plot": "curves of one or several runs in one picture",
    "report": "one HTML file about one or several runs: verdicts, curves, pictures, configs",
    "runs": "table of the runs below a folder, running ones too; the best by a metric",
    "pack": "image folder -> WebDataset shards and index",
    "inspect": "counts, classes, sizes, statistics and a contact sheet of a data set",
    "models": "table of model configs",
    "plan": "what to run on some data, how long it takes here, what to expect; the command",
    "bench": "speed, MFU, memory and largest micro-batch of a pretraining run on this machine",
    "doctor": "versions, devices and traps of this environment",
    "demo": "every step once, on the embedded data set",
}


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
    tolerate_lost_output()
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
    try:
        command = task_command(task, task_arguments(arguments[1:]))
    except InputError as error:
        print(f"mimsuite: {error}", file=sys.stderr)
        sys.exit(2)
    for line in repeated_keys(arguments[1:]):
        print(f"mimsuite: {line}", file=sys.stderr, flush=True)
    os.execve(sys.executable, command, task_environment())


if __name__ == "__main__":
    main()
