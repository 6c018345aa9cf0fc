"""mimsuite: from images without labels to a pretrained, probed vision encoder.

The tasks of the command line are functions here: `mimsuite.pretrain(data=..., out=..., steps=1000)`. Keyword names
are the command-line keys; a key with a dot is passed through a dict: `mimsuite.pretrain(**{"mask.ratio": 0.5})`.
"""

from mimsuite.config.python_path import leave_working_folder

leave_working_folder()  # before anything else is imported

from mimsuite.api import (  # noqa: E402
    bench,
    build,
    demo,
    doctor,
    embed,
    evaluate,
    export,
    finetune,
    inspect,
    list_models,
    list_runs,
    load,
    pack,
    plan,
    plot,
    predict,
    pretrain,
    probe,
    reconstruct,
    report,
)
from mimsuite.version import __version__  # noqa: E402

__all__ = [
    "__version__",
    "bench",
    "build",
    "demo",
    "doctor",
    "embed",
    "evaluate",
    "export",
    "finetune",
    "inspect",
    "list_models",
    "list_runs",
    "load",
    "pack",
    "plan",
    "plot",
    "predict",
    "pretrain",
    "probe",
    "reconstruct",
    "report",
]
