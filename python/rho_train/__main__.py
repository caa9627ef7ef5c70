"""`python -m rho_train` is `rho-ext`."""

import sys

from rho_train.cli import main

sys.exit(main())
