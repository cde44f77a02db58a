"""Answers to lab 03: mistakes that people make with breakers, and right answers in another way."""

from __future__ import annotations

from typing import NamedTuple


class Wrong(NamedTuple):
    """One mistake: the master's answer with lines replaced, and the record that must say it."""

    exercise: str
    mistake: str
    edits: dict[str, str]
    record: str


DECIDES = "return self.count >= self.minimum and self.rate >= self.threshold"
SPENT = "self.permits -= 1"
CANCELLED = "        except asyncio.CancelledError:\n            self.permits += 1\n"
LATE = "        if ticket != self.generation:\n            return\n"
BOUNDED = "return bound / 2 + rng.random() * bound / 2"
NOTHING = 'if outcome == "cancelled" and not slow:'

WRONG = [
    Wrong(
        "window",
        "no minimum",
        {DECIDES: "return self.rate >= self.threshold"},
        "must open, all calls failing",
    ),
    Wrong(
        "window",
        "one call more than the minimum",
        {"self.count >= self.minimum": "self.count > self.minimum"},
        "must open, all calls failing",
    ),
    Wrong(
        "window",
        "counts consecutive failures",
        {
            DECIDES: "self.run = getattr(self, 'run', 0) + 1 if failed else 0\n"
            "        return self.run >= self.minimum"
        },
        "the call that opens, every second one failing",
    ),
    Wrong(
        "window",
        "opens beyond the threshold only",
        {"self.rate >= self.threshold": "self.rate > self.threshold"},
        "must open, exactly at the threshold",
    ),
    Wrong(
        "window",
        "decides after failures only",
        {"return self.count": "return failed and self.count"},
        "must open, the last of the minimum a success",
    ),
    Wrong(
        "window",
        "never forgets",
        {"failed - self.ring[place]": "failed", "min(self.count, self.size)": "self.count"},
        "rate, as failures come and go",
    ),
    Wrong(
        "window",
        "begins anew when it is full",
        {
            "place = self.count % self.size": "if self.count == self.size:\n"
            "            self.__init__(self.size, self.minimum, self.threshold)\n"
            "        place = self.count"
        },
        "rate, as failures come and go",
    ),
    Wrong(
        "window",
        "sums up the window at each call",
        {"self.failures += failed - self.ring[place]": "", "self.failures /": "sum(self.ring) /"},
        "calls recorded in 2 s of CPU time, window of 20 000",
    ),
    Wrong("probes", "lets everybody through", {SPENT: ""}, "let through, of 200 at once"),
    Wrong(
        "probes",
        "awaits between looking and taking",
        {SPENT: f"await asyncio.sleep(0)\n        {SPENT}"},
        "let through, of 200 at once",
    ),
    Wrong(
        "probes",
        "lets one in at a time",
        {
            "if self.permits == 0:": "self.lock = getattr(self, 'lock', asyncio.Lock())\n"
            "        await self.lock.acquire()\n        if self.permits == 0:",
            "self.results.append(True)": "self.lock.release()\n        self.results.append(True)",
        },
        "let through, of 200 at once",
    ),
    Wrong(
        "probes",
        "makes the others wait",
        {
            "if self.permits == 0:\n            raise Refused": "while self.permits == 0:\n"
            "            self.all = getattr(self, 'all', asyncio.Event())\n"
            "            await self.all.wait()"
        },
        "the others",
    ),
    Wrong(
        "probes",
        "keeps the permit of a cancelled probe",
        {CANCELLED: "        except asyncio.CancelledError:\n"},
        "let through, of 200 more after three probes were cancelled",
    ),
    Wrong(
        "probes",
        "takes a cancellation for a failure",
        {CANCELLED + "            raise\n": "", "except Exception": "except BaseException"},
        "let through, of 200 more after three probes were cancelled",
    ),
    Wrong(
        "probes",
        "swallows the cancellation",
        {CANCELLED + "            raise\n": CANCELLED + "            return None\n"},
        "calls that ended so far",
    ),
    Wrong(
        "probes",
        "gives every permit back, as a semaphore does",
        {
            "            self.results.append(False)\n": "            self.results.append(False)\n"
            "            self.permits += 1\n",
            "self.results.append(True)": "self.results.append(True)\n        self.permits += 1",
        },
        "let through, of 200 more when all results are in",
    ),
    Wrong(
        "probes",
        "notes successes only",
        {"self.results.append(False)": "pass"},
        "results",
    ),
    Wrong(
        "late-answers",
        "starts no new count in a new state",
        {"self.since, self.counted = state, now, 0": "self.since = state, now"}
        | {"self.generation = 0": "self.generation = self.counted = 0"},
        "states, nobody late",
    ),
    Wrong(
        "late-answers",
        "waits one moment too long",
        {"now < self.since + self.wait": "now <= self.since + self.wait"},
        "states, nobody late",
    ),
    Wrong(
        "late-answers",
        "lets a call begin too early",
        {"now < self.since + self.wait": "now < self.since + self.wait - 1"},
        "refused just before the wait is over, and at its end",
    ),
    Wrong(
        "late-answers",
        "a late success closes",
        {LATE: ""},
        "states, half-open, successes of the closed state come in",
    ),
    Wrong(
        "late-answers",
        "a late failure opens again",
        {"if ticket != self.generation:": "if ticket != self.generation and not failed:"},
        "states, half-open, failures of the closed state come in",
    ),
    Wrong(
        "late-answers",
        "a late failure prolongs the wait",
        {LATE: LATE.replace(":\n", ' and self.state != "open":\n')},
        "states, open, failures of the closed state come in, then a call begins",
    ),
    Wrong(
        "late-answers",
        "the ticket is the name of the state",
        {
            "return self.generation": "return self.state",
            "ticket != self.generation": "ticket != self.state",
        },
        "states, closed again, failures of the first closed state come in",
    ),
    Wrong(
        "slow-calls",
        "a slow success is a failure",
        {'failed = outcome != "returned"': 'failed = slow or outcome != "returned"'},
        "calls that returned, and the rates",
    ),
    Wrong(
        "slow-calls",
        "quick failures do not count",
        {'failed = outcome != "returned"': 'failed = slow and outcome != "returned"'},
        "calls that raised, and the rates",
    ),
    Wrong(
        "slow-calls",
        "no cancelled call counts",
        {NOTHING: 'if outcome == "cancelled":'},
        "quick and slow calls that were cancelled, and the rates",
    ),
    Wrong(
        "slow-calls",
        "every cancelled call counts",
        {NOTHING: "if False:"},
        "quick and slow calls that were cancelled, and the rates",
    ),
    Wrong(
        "slow-calls",
        "slow begins at the threshold",
        {"ended - began > self.slow": "ended - began >= self.slow"},
        "a call of exactly the threshold",
    ),
    Wrong(
        "slow-calls",
        "calls leave only as others come",
        {"self._forget(now)\n        n =": "n ="},
        "rates in the silence after two calls",
    ),
    Wrong(
        "slow-calls",
        "a call stays a moment too long",
        {"<= now - self.span": "< now - self.span"},
        "rates in the silence after two calls",
    ),
    Wrong(
        "slow-calls",
        "counts when a call began",
        {"self.calls.append((ended, failed": "self.calls.append((began, failed"},
        "rates after one call that began long ago",
    ),
    Wrong(
        "slow-calls",
        "keeps all calls in memory",
        {"self.calls = deque()": "self.calls, self.all = deque(), []"}
        | {"self.failures += failed": "self.failures += failed\n        self.all.append(ended)"},
        "size of the object after 20 000 s",
    ),
    Wrong(
        "predicates",
        "expects a timeout and nothing else",
        {"isinstance(found, OSError)": "isinstance(found, TimeoutError)"},
        "verdicts on calls without an answer",
    ),
    Wrong(
        "predicates",
        "a 404 is an outage",
        {"found.status >= 500": "found.status >= 400"},
        "verdicts on answers of a server that is well",
    ),
    Wrong(
        "predicates",
        "a 429 is none",
        {" or found.status == 429": ""},
        "verdicts on answers of a server in trouble",
    ),
    Wrong(
        "predicates",
        "every exception is an outage",
        {"isinstance(found, OSError)": "isinstance(found, Exception)"},
        "verdicts on errors of the caller's own",
    ),
    Wrong(
        "predicates",
        "reads Retry-After of a 503 alone",
        {"not in (429, 503)": "!= 503"},
        "pauses in seconds",
    ),
    Wrong(
        "predicates",
        "knows no dates",
        {"return (parsedate_to_datetime(text) - now).total_seconds()": "return float(text)"},
        "pauses until a date",
    ),
    Wrong(
        "predicates",
        "a date in the past gives a negative pause",
        {
            "min(max(retry_after(headers.get": "min((retry_after(headers.get",
            ", now), 0.0)": ", now))",
        },
        "pauses until a date",
    ),
    Wrong(
        "predicates",
        "every answer may ask for a pause",
        {"if found.status not in (429, 503):": "if False:"},
        "pauses of other answers and of errors",
    ),
    Wrong(
        "predicates",
        "looks for the header in one spelling",
        {"name.lower()": "name", '"retry-after"': '"Retry-After"'},
        "pauses of a header in other capitals",
    ),
    Wrong(
        "predicates",
        "no longest pause",
        {"return verdict, min(": "return verdict, (lambda pause, _: pause)("},
        "pauses that are too long",
    ),
    Wrong(
        "predicates",
        "takes what float() takes",
        {
            "if text.isascii() and text.isdigit():": "try:",
            "return float(text)": "return float(text)\n    except ValueError:\n        pass",
        },
        "pauses of what is no Retry-After",
    ),
    Wrong("jitter", "no jitter", {BOUNDED: "return bound"}, "waits before attempt 2 or 3"),
    Wrong(
        "jitter",
        "a tenth more or less, beyond the bound",
        {BOUNDED: "return bound * (0.9 + 0.2 * rng.random())"},
        "waits before attempt 2 or 3",
    ),
    Wrong(
        "jitter",
        "too little: the last tenth",
        {BOUNDED: "return bound * (0.9 + 0.1 * rng.random())"},
        "waits before attempt 2 or 3",
    ),
    Wrong(
        "jitter",
        "a tenth of a second at any bound",
        {BOUNDED: "return bound - 0.1 * rng.random()"},
        "waits before attempt 2 or 3",
    ),
    Wrong(
        "jitter",
        "one jitter for the whole process",
        {BOUNDED: "return bound / 2 + random.Random(7).random() * bound / 2"},
        "waits before attempt 2 or 3",
    ),
    Wrong(
        "jitter",
        "next to no wait",
        {BOUNDED: "return rng.random() * bound / 4"},
        "waits before attempt 2 or 3",
    ),
    Wrong(
        "jitter",
        "a few steps instead of a spread",
        {BOUNDED: "return bound * rng.randint(5, 10) / 10"},
        "waits before attempt 2 or 3",
    ),
    Wrong(
        "jitter",
        "spread before the cut",
        {
            BOUNDED: "return bound",
            "bound = first * multiplier**attempt": "bound = first * multiplier**attempt\n"
            "        return bound / 2 + rng.random() * bound / 2",
        },
        "waits after a week",
    ),
]

ANOTHER_WAY = {
    "window": """
from collections import deque

class FailureWindow:
    def __init__(self, size, minimum, threshold):
        self.calls, self.minimum, self.threshold = deque(maxlen=size), minimum, threshold
        self.failures = 0

    def record(self, failed):
        if len(self.calls) == self.calls.maxlen:
            self.failures -= self.calls[0]
        self.calls.append(failed)
        self.failures += failed
        return len(self.calls) >= self.minimum and self.rate >= self.threshold

    @property
    def rate(self):
        return self.failures / len(self.calls) if self.calls else 0.0
""",
    "probes": """
class ProbeGate:
    def __init__(self, permits):
        self.free, self.results = asyncio.Semaphore(permits), []

    async def call(self, function):
        if self.free.locked():
            raise Refused("no permit left")
        async with asyncio.timeout(None):
            await self.free.acquire()
            task = None
            try:
                result = await function()
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError):
                    self.free.release()
                else:
                    self.results.append(False)
                raise
            self.results.append(True)
            return result
""",
    "late-answers": """
class Circuit:
    def __init__(self, limit, wait, probes):
        self.limit, self.wait, self.probes = limit, wait, probes
        self.go("closed")

    def go(self, state, now=None):
        # A ticket is the list of the results of its state: a new state has a new list.
        self.state, self.opened, self.heard = state, now, []

    def begin(self, now):
        if self.state == "open" and now - self.opened >= self.wait:
            self.go("half-open")
        return None if self.state == "open" else self.heard

    def end(self, ticket, failed, now):
        ticket.append(failed)
        if ticket is not self.heard:
            return
        if sum(self.heard) == (1 if self.state == "half-open" else self.limit):
            self.go("open", now)
        elif self.state == "half-open" and len(self.heard) == self.probes:
            self.go("closed")
""",
    "slow-calls": """
class RecentCalls:
    def __init__(self, slow, span):
        self.slow, self.span, self.calls = slow, span, []

    def end(self, began, ended, outcome):
        words = ["slow"] if ended - began > self.slow else []
        if outcome == "cancelled" and not words:
            return "nothing"
        words.append("success" if outcome == "returned" else "failure")
        self.calls = [call for call in self.calls if call[0] > ended - self.span]
        self.calls.append((ended, words))
        return " ".join(words)

    def rates(self, now):
        held = [words for ended, words in self.calls if ended > now - self.span]
        shares = [sum(word in words for words in held) for word in ("failure", "slow")]
        return [share / max(1, len(held)) for share in shares]
""",
    "predicates": """
import re
from email.utils import parsedate_to_datetime

def judge(found, now, longest):
    if not hasattr(found, "status"):
        return ["failure", 0] if isinstance(found, OSError) else ["ignored", 0]
    verdict = "failure" if found.status // 100 == 5 or found.status == 429 else "success"
    pause = 0
    for name, text in found.headers.items():
        if name.title() == "Retry-After" and found.status in {429, 503}:
            if re.fullmatch("[0-9]+", text):
                pause = min(int(text), longest)
            elif text.endswith(" GMT"):
                try:
                    date = parsedate_to_datetime(text)
                except ValueError:
                    continue
                pause = min(max((date - now).total_seconds(), 0), longest)
    return verdict, pause
""",
    "jitter": """
def reopening_wait(attempt, rng, first, multiplier, longest):
    bound = first
    while attempt and bound < longest:
        bound, attempt = bound * multiplier, attempt - 1
    return rng.uniform(0, min(bound, longest))
""",
}


OVERFLOWS = """
def reopening_wait(attempt, rng, first, multiplier, longest):
    bound = min(first * multiplier**attempt, longest)
    return rng.uniform(bound / 2, bound)
"""
