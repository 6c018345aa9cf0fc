"""One HTML file about one or several runs: what was run, what came of it, and what to make of that."""
