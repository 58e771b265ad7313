"""Results in the forms that others read and write: CSV, JSON, Papers-with-Code's evaluation tables, LaTeX."""
