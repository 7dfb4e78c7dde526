"""`python -m minimono` is the command `minimono`."""

import sys

from minimono.cli import main

sys.exit(main())
