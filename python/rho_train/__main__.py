"""`python -m rho_train`, and so `torchrun -m rho_train`."""

import sys

from rho_train.cli import main

sys.exit(main())
