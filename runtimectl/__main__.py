"""Run the command line as `python -m runtimectl`."""

import sys

from runtimectl.cli import main

sys.exit(main())
