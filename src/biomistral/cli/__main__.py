"""``python -m biomistral.cli``: the same as ``biomistral``."""

from biomistral.cli import main

if __name__ == "__main__":
    main()
