"""Grading a folder of submissions from strangers: the verdict falls where none of them runs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
