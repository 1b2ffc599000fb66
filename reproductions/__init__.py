"""The papers' tables and figures: one package for each paper, one script for each table."""

import sys
from pathlib import Path

# A script of this folder that is run by its path (check_tables.py) has the folder on sys.path,
# where `mochi` would be the scripts of the paper instead of its method's package.
_HERE = Path(__file__).parent
sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != _HERE]
