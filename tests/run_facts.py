"""A `RunContext` for tests of callbacks and loggers."""

from mimsuite.callbacks.context import RunContext


def context_of(folder, **changes):
    """Facts of a small run in `folder`."""
    facts = {
        **{"folder": folder, "pictures": folder / "pictures", "config": {"seed": 0}, "batch": 4, "steps": 10},
        **{"image_size": (8, 8), "samples": 100, "leads": True, "started": None, "imports": 0.0},
        **{"online_probe": False, "save_weights": lambda model: None},
    }
    return RunContext(**(facts | changes))
