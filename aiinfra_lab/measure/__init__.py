"""Measuring: ratios with intervals, latencies without their warm-up, and what the machine is.

A timing on a shared machine says little by itself. What carries over is the ratio of two things
timed in turn, and the interval that says how far to trust it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
