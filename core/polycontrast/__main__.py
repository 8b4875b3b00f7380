"""``python -m polycontrast``, also under ``accelerate launch`` and ``torchrun``."""

import sys

from polycontrast.cli import main

if __name__ == "__main__":
    sys.exit(main())
