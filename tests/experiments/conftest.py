"""Let the tests import the modules of the experiments as the experiments do."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
