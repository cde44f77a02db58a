"""The course engine: typed records, labs and their checks, and the tools that run notebooks.

In a notebook you need two names: ``from aiinfra_lab.course import show, exercise``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
