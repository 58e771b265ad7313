"""What every quantised form is measured by, whichever method wrote it."""
