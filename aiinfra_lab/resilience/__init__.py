"""A circuit breaker: stop calling what is down, and find out gently when it is back.

``breaker`` holds the specification.

Examples
--------
>>> from aiinfra_lab.resilience import CircuitBreaker, CircuitOpen, Rules, http_verdicts
>>> breaker = CircuitBreaker(
...     "digits/3",
...     Rules(slow_call_duration_threshold=0.5, verdicts=http_verdicts()),
... )
>>> @breaker
... async def predict(image): ...
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
