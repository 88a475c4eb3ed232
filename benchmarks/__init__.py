"""Benchmarks, run from the root of the repository: ``python -m benchmarks.speedrun.run organics``.

Importing this package, which happens before anything else is imported, limits numerical libraries to one thread unless
the environment says otherwise: times and budgets are those of one core, whatever the machine has.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
