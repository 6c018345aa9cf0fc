"""Where the metrics of a run go: files in the run folder, and guests of other libraries, one file each."""
