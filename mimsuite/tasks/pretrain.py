"""`mimsuite pretrain`: masked image modeling."""
from __future__ import annotations
from typing import Any
from omegaconf import DictConfig
from mimsuite import app

def run(cfg: DictConfig) -> dict[str, Any]:
    print(cfg.out, cfg.data)
    return {}

if __name__ == "__main__":
    app.main("pretrain", run)
