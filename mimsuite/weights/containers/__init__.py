"""Files that hold named arrays, whatever the names mean: one file here per kind; nothing they hold is run."""
