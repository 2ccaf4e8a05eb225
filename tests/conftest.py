"""Before anything imports torch: waiting threads sleep, so that tests pass quickly on a shared machine too."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
