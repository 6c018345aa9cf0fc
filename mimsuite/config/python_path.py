"""Where Python looks for modules: never in the working folder, which may be a downloaded data set.

`mimsuite` imports this file first, and this file imports only what Python has imported before.
"""

import os
import sys


def leave_working_folder() -> None:
    """Takes the folder that `python -m mimsuite...` puts first on `sys.path` away again, here and in processes below.

    Other programs that import `mimsuite` keep theirs. A checkout that is not installed stays importable from its own
    folder, after everything that is installed.
    """
    if sys.argv[:1] != ["-m"] or sys.flags.safe_path:  # so it is while Python looks for the module of `-m`
        return
    if sys.orig_argv[-len(sys.argv)].removeprefix("-m").partition(".")[0] != "mimsuite":
        return
    folder = sys.path.pop(0)
    os.environ["PYTHONSAFEPATH"] = "1"  # what multiprocessing starts with `-c` would look there, too
    if not any(finder.find_spec("mimsuite", None) for finder in sys.meta_path):
        sys.path.append(folder)
        os.environ["PYTHONPATH"] = os.pathsep.join([*named_folders(), folder])


def task_command(task: str, arguments: list[str]) -> list[str]:
    """The command line that runs a task in a process of its own, without the working folder on its path."""
    return [sys.executable, "-P", "-m", f"mimsuite.tasks.{task}", *arguments]


def task_environment() -> dict[str, str]:
    """The variables for such a process: an empty part of PYTHONPATH (`:/code`) would mean the working folder."""
    return dict(os.environ) | ({"PYTHONPATH": os.pathsep.join(named_folders())} if "PYTHONPATH" in os.environ else {})


def named_folders() -> list[str]:
    """The folders that PYTHONPATH names."""
    return [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
