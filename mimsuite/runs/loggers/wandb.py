"""wandb as a guest of a run."""

from __future__ import annotations

import configparser
import contextlib
import importlib.util
import json
import netrc
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mimsuite.callbacks.context import RunContext
from mimsuite.data.storage import OptionalWrites, read_object, write_text
from mimsuite.errors import InputError
from mimsuite.runs.loggers.guest import PATIENCE, Guest

WANDB_HOSTS = ["api.forge.coreweave.com", "api.wandb.ai"]  # of wandb from 0.31 on, and before
OFF = ("disabled", "offline", "dryrun")  # modes that send nothing


class WandbLogger(Guest):
    """wandb; it never prompts.

    Online only if a key is there (`WANDB_API_KEY`, or a netrc entry for its server) and neither `WANDB_MODE` nor what
    `wandb disabled` and `wandb offline` wrote says otherwise. Its files stay in the run folder.

    Args:
        project: wandb project.
        group: wandb group, or None for none.
        context: facts of the run.
    """

    title = "wandb"

    def __init__(self, *, project: str, group: str | None, context: RunContext) -> None:
        super().__init__()
        # In a notebook wandb asks every Jupyter server for the notebook's name, and complains in red that none
        # knows it, unless this variable names something that exists.
        os.environ.setdefault("WANDB_NOTEBOOK_NAME", str(context.folder))
        self._trouble = load_user_settings()
        self._given = self._arguments(context.folder, project, group, context.config)

    @staticmethod
    def is_wanted(context: RunContext) -> bool:
        """Not where the user has disabled wandb.

        Raises:
            InputError: wandb is not installed.
        """
        if wandb_mode() == "disabled":
            return False
        if importlib.util.find_spec("wandb") is None:
            raise InputError("logger.wandb needs wandb, which is not installed; pip install wandb, or use logger=null")
        return True

    @staticmethod
    def _arguments(folder: Path, project: str, group: str | None, config: Mapping[str, Any]) -> dict[str, Any]:
        """What `wandb.init` gets; a resumed run keeps its id online and becomes `-r2`, `-r3`, ... offline."""
        record = folder / "wandb" / "run.json"
        state: dict[str, Any] = {"id": secrets.token_hex(4), "starts": 0}
        with OptionalWrites("wandb/run.json", (OSError, ValueError)).attempt():
            record.parent.mkdir(parents=True, exist_ok=True)
            if record.exists():
                state = read_wandb_state(record)
            write_text(record, json.dumps(state | {"starts": state["starts"] + 1}))
        state["starts"] += 1
        mode, first = wandb_mode(), state["starts"] == 1
        again = not first and mode == "offline"
        return {
            "project": project,
            "group": state["id"] if again and group is None else group,
            "name": folder.resolve().name,
            "id": f"{state['id']}-r{state['starts']}" if again else state["id"],
            "resume": "allow" if mode == "online" else None,
            "dir": str(folder),
            "mode": mode,
            "config": dict(config),
        }

    def open(self) -> Any:
        """See `Guest`."""
        if self._trouble is not None:
            raise self._trouble
        import wandb

        settings = wandb.Settings(
            init_timeout=PATIENCE * 0.8,
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
        )
        return wandb.init(settings=settings, **self._given)

    def send_metrics(self, run: Any, metrics: dict[str, float], step: int) -> None:
        """See `Guest`."""
        run.log(metrics, step=step)

    def send_picture(self, run: Any, name: str, path: Path, step: int) -> None:
        """See `Guest`."""
        import wandb

        run.log({name: wandb.Image(str(path))}, step=step)

    def send_report(self, run: Any, path: Path) -> None:
        """See `Guest`; the last metrics and the cost are the run's summary."""
        import wandb

        run.log({"report": wandb.Html(str(path), inject=False)})
        summary = json.loads((path.parent / "summary.json").read_text(encoding="utf-8"))
        run.summary.update(summary.pop("metrics") | summary)

    def finish(self, run: Any) -> None:
        """See `Guest`."""
        run.finish()


def read_wandb_state(record: Path) -> dict[str, Any]:
    """The id of a run in wandb, and how often it was started.

    Raises:
        InputError: a damaged file.
    """
    fix = "the run gets a new id"
    state = read_object(record, fix)
    if not isinstance(state.get("id"), str) or type(state.get("starts")) is not int:
        raise InputError(f"{record} names no id and no number of starts; {fix}")
    return state


def load_user_settings() -> Exception | None:
    """Lets wandb read its settings now, from the user's folder and the environment alone; returns what went wrong.

    It would also read `wandb/settings` of the working folder, where a downloaded data set could name another server,
    which would get the key. It reads its settings once in each process.
    """
    try:
        from wandb.sdk import wandb_setup

        with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
            assert wandb_setup.singleton().settings is not None
    except Exception as error:
        return error
    return None


def wandb_mode() -> str:
    """`online` if a key is there, else `offline`; `WANDB_MODE` decides where it is set, then wandb's settings files."""
    if mode := os.environ.get("WANDB_MODE") or mode_of_files():
        return mode
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    given = os.environ.get("WANDB_BASE_URL")
    hosts = [urlsplit(given).hostname or ""] if given else WANDB_HOSTS
    try:
        return "online" if any(map(netrc.netrc().authenticators, hosts)) else "offline"
    except (OSError, netrc.NetrcParseError):
        return "offline"


def mode_of_files() -> str | None:
    """What `wandb disabled`, `offline` or `online` wrote, for the user or for this folder; None for nothing.

    The working folder may be a downloaded data set: it can keep wandb from sending, and nothing else.
    """
    user = os.environ.get("WANDB_CONFIG_DIR") or os.path.expanduser("~/.config/wandb")
    here = _mode_in(os.path.join(os.environ.get("WANDB_DIR") or "", "wandb"))
    return here if here in OFF else _mode_in(user)


def _mode_in(folder: str) -> str | None:
    settings = configparser.ConfigParser(interpolation=None)
    try:
        settings.read(os.path.join(folder, "settings"), encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return None
    return settings.get("default", "mode", fallback=None)
