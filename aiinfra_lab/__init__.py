"""The AI infrastructure course: real packages, chapters that run, labs that are checked.

Importing this package imports nothing else; take what you need from its rooms,
for instance ``from aiinfra_lab.course import show``.
"""

__version__ = "0.1.0"
