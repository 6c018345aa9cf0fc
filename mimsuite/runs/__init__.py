"""From settings to the objects of a run, and to a finished run folder."""
