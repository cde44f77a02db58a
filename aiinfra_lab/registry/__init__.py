"""The model registry and the record of experiments, with MLflow behind them.

A model is a folder with ``model.json`` (``registry.bundle``). ``register`` gives it the next
version of its name, once for each key; ``resolve`` gives a verified folder for ``digits@champion``,
``digits/3`` or ``digits``; ``run`` records parameters, metrics and files of a training.

Examples
--------
>>> from aiinfra_lab.registry import promote, register, resolve, run
>>> with run("digits", params={"lr": 0.1}, tags={}) as r:  # doctest: +SKIP
...     r.log(step=1, loss=0.3)
...     version = register("out/model", key="digits-seed6")
>>> promote("digits", version.version)  # doctest: +SKIP
>>> folder = resolve("digits@champion")  # doctest: +SKIP
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
