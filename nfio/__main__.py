"""``python -m nfio``: the command line without an installed script."""

import sys

from nfio.cli import main

sys.exit(main())
