"""One short file per task; each is a Hydra application over `conf/TASK.yaml`."""
