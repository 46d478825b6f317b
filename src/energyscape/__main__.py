"""``python -m energyscape`` is the command ``energyscape``."""

from __future__ import annotations

import sys

from energyscape.cli import main

if __name__ == "__main__":
    sys.exit(main())
