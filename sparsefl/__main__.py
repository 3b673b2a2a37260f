"""``python -m sparsefl``: the command line."""

import sys

from sparsefl.cli import main

if __name__ == "__main__":
    sys.exit(main())
