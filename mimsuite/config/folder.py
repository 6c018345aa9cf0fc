"""Where the YAML files lie: in the installed package, or beside it in a checkout."""

from pathlib import Path

import mimsuite.version


def conf_dir() -> Path:
    """The folder that holds `pretrain.yaml` and the groups.

    A wheel holds it as `mimsuite/conf`; an editable install and a checkout as `conf` beside the package.
    """
    package = Path(mimsuite.version.__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "base.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no conf folder in {package} nor beside it; install mimsuite again")
