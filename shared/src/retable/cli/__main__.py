"""``python -m retable.cli`` runs the command ``retable``."""

import sys

from retable.cli import main

if __name__ == "__main__":
    sys.exit(main())
