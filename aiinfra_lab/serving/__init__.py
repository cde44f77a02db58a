"""A model server: a bundle on disk, an HTTP process that serves it, and faults to order.

Examples
--------
>>> from aiinfra_lab.serving import ModelServer, digits_bundle
>>> with ModelServer(digits_bundle("1")) as server:  # doctest: +SKIP
...     httpx.post(f"{server.url}/predict", json={"instance": image.tolist()})
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
