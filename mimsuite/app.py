"""Runs one task as a Hydra application: help, hints for misspelt keys, errors as one line, exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mimsuite.callbacks.stop import EXIT_CODES
from mimsuite.config.composing import NAMED_NODES, compose_task, missing_group, plain, unknown_keys
from mimsuite.config.folder import conf_dir
from mimsuite.config.hints import explain, unknown_key
from mimsuite.config.overrides import is_sweep, override_of, without_null_groups
from mimsuite.config.submitted import (
    check_launcher,
    is_submitted,
    make_submitit_folder,
    read_codes,
    submitted_jobs,
    uses_submitit,
    write_code,
)
from mimsuite.config.yaml_files import read_yaml
from mimsuite.data.terminal import tolerate_lost_output
from mimsuite.errors import InputError, LostProcessError, RunError, without_faults
from mimsuite.runs.secrets import hide, name_secrets
from mimsuite.settings.places import with_places
from mimsuite.settings.resolve import with_values
from mimsuite.settings.team import current_team
from mimsuite.version import __version__
from mimsuite.words import FINETUNE_RECIPES

SEVERAL = ("pretrain", "finetune", "probe", "embed", "evaluate")  # tasks that run in several processes
WRITES_FILE = ("bench", "doctor", "embed", "plan", "plot", "predict", "reconstruct", "report")  # as out=
T = TypeVar("T")
Task = Callable[[DictConfig, Sequence[str]], dict[str, Any]]


class StoppedSweep(BaseException):
    """A signal has ended a job, and so ends the sweep; Hydra lets it pass, as it is no `Exception`."""


def main(task: str, run: Task) -> None:
    """Parses the command line, composes `conf/TASK.yaml` and calls `run`; ends the process with the exit code.

    `run` takes the config and the `key=value` arguments, and returns a summary. Its `exit_code` there, if present,
    ends the process (130 or 143 for a run that a signal stopped).
    """
    tolerate_lost_output()
    try:
        os.getcwd()
    except FileNotFoundError:
        sys.exit(print_error(task, "the current folder has been removed; go to another one (cd)", 2))
    os.environ.setdefault("MIMSUITE_STARTED", str(time.time()))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost process is one line, not the stacks of its store
    arguments = sys.argv[1:]
    if "--help" in arguments or "-h" in arguments:
        from mimsuite.config.help import help_text

        print(help_text(task, conf_dir(), own_folders(arguments)))
        sys.exit(0)
    if "--version" in arguments:
        print(__version__)
        sys.exit(0)
    code = run_guarded(lambda: through_hydra(task, run), task)
    sys.stdout.flush()
    if any(thread.name.startswith("logger ") for thread in threading.enumerate()):
        os._exit(code)  # one hangs on an unreachable server; its exit handlers would hold the process for longer
    sys.exit(code)


def refuse_team(task: str) -> None:
    """Refuses to do the same thing in several processes: all would write the same files.

    Raises:
        InputError: `torchrun` or `srun` started several processes of a task that knows one.
    """
    if task not in SEVERAL and (team := current_team()) is not None and team.size > 1:
        raise InputError(f"{team.launcher} started {team.size} processes, but this task runs in one; start it alone")


def call_task(task: str, run: Callable[[DictConfig, Sequence[str]], T], values: Mapping[str, Any]) -> T:
    """Composes `conf/TASK.yaml` with values from Python and calls `run`, without Hydra's command line.

    Args:
        task: its name.
        run: as of `main`.
        values: by key, inner ones with dots; None leaves a key at its default, and is null for inner ones.

    Raises:
        InputError: a key or value that the config does not take.
    """
    from hydra.errors import HydraException

    given = {key: value for key, value in values.items() if value is not None or "." in key}
    overrides = without_null_groups([override_of(key, value) for key, value in given.items()])
    try:
        cfg, choices = compose_task(task, overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise InputError(explain(error, task)) from error
    name_secrets(str(plain(cfg)))
    check_keys(cfg, task, choices, overrides)
    os.environ.pop("MIMSUITE_STARTED", None)  # from here on the command's start tells nothing about this task
    return without_faults(lambda: run(with_places(cfg, task), overrides))


def through_hydra(task: str, run: Task) -> int:
    """Lets Hydra parse `sys.argv`, compose the config and call `run`, once or for each job of a sweep."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    refuse_team(task)
    check_config_folders(sys.argv[1:])
    check_launcher(sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach `run_guarded` instead of Hydra's own printing
    codes = []

    def job(cfg: DictConfig) -> None:
        overrides = list(HydraConfig.get().overrides.task)

        def guarded() -> int:
            name_secrets(str(plain(cfg)))
            check_keys(cfg, task, HydraConfig.get().runtime.choices, overrides)
            return int(
                without_faults(lambda: run(for_this_job(with_places(cfg, task), task), overrides)).get("exit_code", 0)
            )

        codes.append(run_guarded(guarded, task))
        if is_submitted():
            write_code(HydraConfig.get(), codes[-1])
        elif codes[-1] in EXIT_CODES.values() and HydraConfig.get().mode == RunMode.MULTIRUN:
            print_error(task, "stopped, and so no further job of this sweep begins", codes[-1])
            raise StoppedSweep

    job.__module__ = f"mimsuite.tasks.{task}"
    try:
        with sweep_folder(sys.argv[1:]) as folder, submitted_jobs():
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=task)(job)()
            codes += read_codes(folder)
    except StoppedSweep:
        pass
    except (ValueError, RecursionError) as error:  # of Hydra itself: those of a job are guarded
        raise InputError(explain(error, task)) from error
    return max(codes, default=0)


def check_keys(cfg: DictConfig, task: str, choices: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Refuses keys that a recipe file or `+key=value` adds and nothing reads; Hydra itself refuses `key=value`.

    Raises:
        InputError: such a key, with the nearest one that exists; a key or group that is removed as a whole.
    """
    check_recipe(task, choices.get("experiment"))
    check_removed(cfg, choices, overrides)
    added = any(override.startswith("+") for override in overrides)
    chosen = {group: name for group, name in choices.items() if name and not group.startswith("hydra/")}
    own = not all((conf_dir() / group / f"{name}.yaml").is_file() for group, name in chosen.items())
    if (added or own or "--config-dir" in " ".join(sys.argv)) and (unknown := unknown_keys(cfg, task, choices)):
        raise InputError(unknown_key(unknown[0], task))


def check_recipe(task: str, name: str | None) -> None:
    """Refuses a packaged recipe of fine-tuning in another task, and the other way round.

    Raises:
        InputError: such a recipe, with those that the task takes.
    """
    packaged = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))
    fits = [recipe for recipe in packaged if recipe.startswith(FINETUNE_RECIPES) == (task == "finetune")]
    if name in packaged and name not in fits:
        whose = "pretrain" if task == "finetune" else "finetune"
        raise InputError(f"experiment={name} is a recipe of `mimsuite {whose}`; {task} takes {', '.join(fits)}")


def check_removed(cfg: DictConfig, choices: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Refuses a config without a key or group that the task reads, because it was removed or is null.

    Raises:
        InputError: such a config.
    """
    if (group := missing_group(cfg, choices)) is not None:
        raise InputError(f"{group}=null: the task needs this config group; leave it out, and it has its default")
    for key in (override.lstrip("~").partition("=")[0] for override in overrides if override.startswith("~")):
        if "." not in key and key not in (*NAMED_NODES, "experiment"):
            raise InputError(f"~{key}: the task needs this key; leave it out, and it has its default")


@contextlib.contextmanager
def sweep_folder(arguments: Sequence[str]) -> Iterator[Path | None]:
    """For a sweep, a folder of this process alone where Hydra puts its record; it is removed with what is in it.

    With submitit it is `submitit/` in `out`, which stays: what the jobs print is there.
    """
    if not is_sweep(arguments):
        yield None
        return
    if uses_submitit(arguments):
        yield make_submitit_folder(arguments)
        return
    with tempfile.TemporaryDirectory(prefix="mimsuite-sweep-", ignore_cleanup_errors=True) as folder:
        os.environ["MIMSUITE_SWEEP"] = folder
        yield None


def check_config_folders(arguments: Sequence[str]) -> None:
    """Refuses YAML from elsewhere that configures Hydra itself: Hydra would build what it finds there, unasked.

    Raises:
        InputError: a file below `--config-dir` that names Hydra outside of comments; flags of Hydra that lead nowhere.
    """
    given = hydra_flags(arguments)
    if given.config_name:
        raise InputError(
            f"--config-name={given.config_name} is not allowed: the task says which config it takes, and is the first "
            "word of the command; use experiment=NAME for a recipe"
        )
    if given.resolve and not given.cfg:
        raise InputError("--resolve is for --cfg; use --cfg job --resolve")
    if given.config_path or any(argument.lstrip("+").startswith("hydra.searchpath") for argument in arguments):
        what = "--config-path" if given.config_path else "hydra.searchpath"
        raise InputError(f"{what} is not allowed; use --config-dir=FOLDER for configs of your own")
    if not (folder := given.config_dir):
        return
    if not os.path.isdir(folder):
        raise InputError(f"--config-dir={folder} is not a folder; give the one that holds experiment/, model/, ...")
    for place, _, names in os.walk(folder, followlinks=True):
        for name in sorted(n for n in names if n.endswith((".yaml", ".yml"))):
            file = Path(place, name)
            if "hydra" in file.relative_to(folder).parts or names_hydra(file):
                raise InputError(f"{file} configures Hydra itself, which a config folder may not; remove that part")


def hydra_flags(arguments: Sequence[str]) -> Any:
    """Hydra's own flags of a command line, abbreviated ones, too."""
    from hydra._internal.utils import get_args_parser

    return get_args_parser().parse_known_args([a for a in arguments if a not in ("--help", "-h")])[0]


def own_folders(arguments: Sequence[str]) -> list[Path]:
    """The config folder of the user's that a command line names."""
    if not any(argument.startswith("--config-d") for argument in arguments):
        return []
    folder = hydra_flags(arguments).config_dir
    return [Path(folder)] if folder else []


def names_hydra(file: Path) -> bool:
    """Whether a YAML file names Hydra in a key, a value or its `@package` line."""
    from omegaconf import OmegaConf

    content = OmegaConf.to_container(read_yaml(file, "fix it or remove it"), resolve=False)
    text = file.read_text(encoding="utf-8")
    return re.search(r"@package\s.*hydra", text) is not None or "hydra" in json.dumps(content, default=str).lower()


def for_this_job(cfg: DictConfig, task: str) -> DictConfig:
    """In a sweep each job writes its own folder, `out/0`, `out/1`, ..., or its own file: `plan-0.json`, ..."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra_cfg = HydraConfig.get()
    if hydra_cfg.mode == RunMode.MULTIRUN and "out" in cfg:
        if not is_submitted() and str(cfg.get("devices", 1)) not in ("auto", "1"):
            raise InputError(
                f"-m with devices={cfg.devices}: sweeps run on one device; use devices=1, start the runs one by one, "
                "or have a cluster start them with hydra/launcher=submitit_slurm"
            )
        if "devices" in cfg and not is_submitted():
            cfg = with_values(cfg, {"devices": 1})  # auto would start this very command line in several processes
        if cfg.out is not None:
            path, number = str(cfg.out), hydra_cfg.job.num
            stem, ending = os.path.splitext(path) if task in WRITES_FILE else (path, "")
            cfg = with_values(cfg, {"out": f"{stem}-{number}{ending}" if ending else f"{path}/{number}"})
    return cfg


def run_guarded(call: Callable[[], int], task: str) -> int:
    """Calls and turns what may go wrong into an exit code and one line on stderr."""
    from hydra.errors import HydraException

    try:
        return call()
    except InputError as error:
        return print_error(task, str(error), 2)
    except (HydraException, OmegaConfBaseException) as error:
        return print_error(task, explain(error, task), 2)
    except RunError as error:
        told = isinstance(error, LostProcessError) and error.told
        return 1 if told else print_error(task, str(error), 1)
    except KeyboardInterrupt:
        return print_error(task, "interrupted", 130) if speaks_for_machine() else 130
    except Exception:
        print(hide(traceback.format_exc()), file=sys.stderr)
        return print_error(task, "this is a defect of mimsuite, not of your input; please report the lines above", 1)


def speaks_for_machine() -> bool:
    """Whether this process says what all of its run on this machine would say."""
    team = current_team()
    return team is None or team.rank % team.local == 0


def print_error(task: str, message: str, code: int) -> int:
    """Prints an error as one line and gives the exit code back."""
    print(f"mimsuite {task}: {hide(' '.join(message.split()))}", file=sys.stderr, flush=True)
    return code
