"""Engines: embedded servers for this machine, and the way to real ones by configuration.

Examples
--------
>>> from aiinfra_lab.engines import connect_valkey, open_valkey
>>> with open_valkey() as url, connect_valkey(url) as client:  # doctest: +SKIP
...     client.set("answer", 42)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
