"""What the project costs, measured on the machine at hand: ``make bench``, ``make bench-data``."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as everest's commands have it; read when torch is imported
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler says when it starts and stops
