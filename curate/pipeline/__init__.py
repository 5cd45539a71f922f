"""Executors around scoring: prepare, score, commit, resume."""

import os

# A thread that Ray Data left behind would start another Ray, by the first call that it makes after ours has ended. Ray
# reads this when it is imported.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
