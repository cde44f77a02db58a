"""One supervised child process, and nothing left running when its time is over.

Examples
--------
>>> from aiinfra_lab.processes import Child, PortOpen
>>> with Child(["redis-server", "--port", "7000"], log="redis.log") as server:  # doctest: +SKIP
...     server.ready(PortOpen(7000), timeout=10)

Several children in a fixed order, ended in the reverse one: enter them into a
``contextlib.ExitStack`` (or ``AsyncExitStack``).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
