"""Settings for all unit tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: one thread is the fastest for tiny tensors

import hypothesis
import matplotlib

matplotlib.use("Agg")  # no window, also where there is a screen

# The same examples in every run, none remembered from earlier ones, and no time limit for one example: a busy machine
# is not a wrong result.
hypothesis.settings.register_profile("posebook", derandomize=True, deadline=None, max_examples=40, database=None)
hypothesis.settings.load_profile("posebook")
