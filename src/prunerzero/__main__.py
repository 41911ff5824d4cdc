"""``python -m prunerzero``."""

import sys

from prunerzero.cli.app import main

sys.exit(main())
