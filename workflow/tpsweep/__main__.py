"""``python -m tpsweep``: the command without its installed script."""

import sys

from tpsweep.cli.main import main

sys.exit(main())
