"""What a running program tells: progress for people and machines, and logs.

Importing it configures nothing: a program that wants logs calls ``logs.configure``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
