"""Right answers to the exercises of lab 03, each written without a look at the others.

Two more for each exercise; under a secret seed the grader gives each set all points. With the
master's and those of ``tests/notebooks/lab03_answers.py`` they are what people come to who have
read the same text and nothing of each other.
"""

from __future__ import annotations

SECOND = {
    "window": """
class FailureWindow:
    def __init__(self, size, minimum, threshold):
        self.size = size
        self.minimum = minimum
        self.threshold = threshold
        self.history = [0] * size
        self.next_index = 0
        self.filled = 0
        self.bad = 0

    def record(self, failed):
        if self.filled == self.size:
            if self.history[self.next_index]:
                self.bad -= 1
        else:
            self.filled += 1
        if failed:
            self.history[self.next_index] = 1
            self.bad += 1
        else:
            self.history[self.next_index] = 0
        self.next_index = (self.next_index + 1) % self.size
        if self.filled < self.minimum:
            return False
        return self.rate >= self.threshold

    @property
    def rate(self):
        if self.filled == 0:
            return 0.0
        return self.bad / self.filled
""",
    "probes": """
class ProbeGate:
    def __init__(self, permits):
        self.permits = permits
        self.in_flight = 0
        self.results = []

    async def call(self, function):
        if self.in_flight + len(self.results) >= self.permits:
            raise Refused("half-open: all probes are taken")
        self.in_flight += 1
        ok = None
        try:
            value = await function()
            ok = True
            return value
        except asyncio.CancelledError:
            raise
        except BaseException:
            ok = False
            raise
        finally:
            self.in_flight -= 1
            if ok is not None:
                self.results.append(ok)
""",
    "late-answers": """
class Circuit:
    def __init__(self, limit, wait, probes):
        self.limit = limit
        self.wait = wait
        self.probes = probes
        self.state = "closed"
        self.epoch = 1
        self.failures = 0
        self.successes = 0
        self.open_until = None

    def begin(self, now):
        if self.state == "open" and now >= self.open_until:
            self.change_state("half-open")
        if self.state == "open":
            return None
        return self.epoch

    def end(self, ticket, failed, now):
        if ticket == self.epoch:
            if failed:
                self.on_failure(now)
            else:
                self.on_success()

    def on_failure(self, now):
        self.failures += 1
        if self.state == "half-open" or self.failures >= self.limit:
            self.open_until = now + self.wait
            self.change_state("open")

    def on_success(self):
        self.successes += 1
        if self.state == "half-open" and self.successes >= self.probes:
            self.change_state("closed")

    def change_state(self, new_state):
        self.state = new_state
        self.epoch = self.epoch + 1
        self.failures = 0
        self.successes = 0
""",
    "slow-calls": """
from collections import deque

class RecentCalls:
    def __init__(self, slow, span):
        self.slow = slow
        self.span = span
        self.failures = deque()
        self.slows = deque()
        self.all = deque()

    def end(self, began, ended, outcome):
        is_slow = (ended - began) > self.slow
        if outcome == "cancelled":
            if not is_slow:
                return "nothing"
        kind = "success"
        if outcome != "returned":
            kind = "failure"
            self.failures.append(ended)
        self.all.append(ended)
        if is_slow:
            self.slows.append(ended)
            kind = "slow " + kind
        self.clean(ended)
        return kind

    def clean(self, now):
        for queue in (self.failures, self.slows, self.all):
            while len(queue) > 0 and now - queue[0] >= self.span:
                queue.popleft()

    def rates(self, now):
        self.clean(now)
        total = len(self.all)
        if total == 0:
            return 0.0, 0.0
        return len(self.failures) / total, len(self.slows) / total
""",
    "predicates": """
from email.utils import parsedate_to_datetime

def judge(found, now, longest):
    if isinstance(found, OSError):
        return "failure", 0.0
    if isinstance(found, BaseException):
        return "ignored", 0.0
    code = found.status
    if code == 429 or code >= 500:
        verdict = "failure"
    else:
        verdict = "success"
    pause = 0.0
    if code in (429, 503):
        value = None
        for key in found.headers:
            if key.lower() == "retry-after":
                value = found.headers[key]
        if value is not None:
            pause = parse_pause(value, now)
    if pause < 0:
        pause = 0.0
    if pause > longest:
        pause = float(longest)
    return verdict, pause

def parse_pause(value, now):
    if value and all(c in "0123456789" for c in value):
        return float(value)
    try:
        when = parsedate_to_datetime(value)
        return (when - now).total_seconds()
    except Exception:
        return 0.0
""",
    "jitter": """
def reopening_wait(attempt, rng, first, multiplier, longest):
    try:
        base = first * multiplier ** attempt
    except OverflowError:
        base = longest
    if base > longest:
        base = longest
    return base * rng.uniform(0.4, 1.0)
""",
}

THIRD = {
    "window": """
from collections import deque

class FailureWindow:
    def __init__(self, size, minimum, threshold):
        self.size = size
        self.min_calls = minimum
        self.limit = threshold
        self.window = deque()
        self.n_failed = 0

    def record(self, failed):
        self.window.append(bool(failed))
        if failed:
            self.n_failed += 1
        if len(self.window) > self.size:
            oldest = self.window.popleft()
            if oldest:
                self.n_failed -= 1
        enough = len(self.window) >= self.min_calls
        return enough and self.rate >= self.limit

    @property
    def rate(self):
        n = len(self.window)
        if not n:
            return 0.0
        return self.n_failed / n
""",
    "probes": """
class ProbeGate:
    def __init__(self, permits):
        self.tickets = list(range(permits))
        self.results = []

    async def call(self, function):
        try:
            ticket = self.tickets.pop()
        except IndexError:
            raise Refused("come back later") from None
        try:
            value = await function()
        except Exception as error:
            self.results += [False]
            raise error
        except BaseException:
            self.tickets.append(ticket)
            raise
        else:
            self.results += [True]
            return value
""",
    "late-answers": """
class Circuit:
    CLOSED, OPEN, HALF = "closed", "open", "half-open"

    def __init__(self, limit, wait, probes):
        self.settings = (limit, wait, probes)
        self.state, self.ticket, self.counter, self.opened_at = self.CLOSED, object(), 0, None

    def begin(self, now):
        _, wait, _ = self.settings
        if self.state != self.OPEN:
            return self.ticket
        if now < self.opened_at + wait:
            return None
        self.state, self.ticket, self.counter = self.HALF, object(), 0
        return self.ticket

    def end(self, ticket, failed, now):
        limit, _, probes = self.settings
        if ticket is not self.ticket:
            return
        if self.state == self.CLOSED and failed:
            self.counter += 1
        if self.state == self.HALF and not failed:
            self.counter += 1
            if self.counter == probes:
                self.state, self.ticket, self.counter = self.CLOSED, object(), 0
            return
        if failed and (self.state == self.HALF or self.counter == limit):
            self.state, self.ticket, self.opened_at = self.OPEN, object(), now
""",
    "slow-calls": """
import heapq

class RecentCalls:
    def __init__(self, slow, span):
        self.threshold, self.window = slow, span
        self.heap = []
        self.totals = [0, 0, 0]

    def end(self, began, ended, outcome):
        took_long = int(ended - began > self.threshold)
        bad = int(outcome in ("raised", "cancelled"))
        if outcome == "cancelled" and not took_long:
            return "nothing"
        heapq.heappush(self.heap, (ended, bad, took_long))
        for i, x in enumerate((1, bad, took_long)):
            self.totals[i] += x
        self.rates(ended)
        text = "failure" if bad else "success"
        if took_long:
            text = f"slow {text}"
        return text

    def rates(self, now):
        while self.heap and self.heap[0][0] + self.window <= now:
            _, bad, long = heapq.heappop(self.heap)
            self.totals[0] -= 1
            self.totals[1] -= bad
            self.totals[2] -= long
        n, bad, long = self.totals
        try:
            return [bad / n, long / n]
        except ZeroDivisionError:
            return [0.0, 0.0]
""",
    "predicates": """
import email.utils

RETRY = {429, 503}

def judge(found, now, longest):
    match found:
        case OSError():
            return ("failure", 0)
        case BaseException():
            return ("ignored", 0)
    bad = found.status == 429 or 500 <= found.status
    result = ["success", "failure"][bad]
    if found.status not in RETRY:
        return (result, 0)
    lowered = dict((k.casefold(), v) for k, v in found.headers.items())
    raw = lowered.get("retry-after")
    if raw is None:
        return (result, 0)
    if raw.isdecimal() and raw.isascii():
        seconds = longest if len(raw) > 9 else int(raw)
    else:
        try:
            seconds = (email.utils.parsedate_to_datetime(raw) - now).total_seconds()
        except (TypeError, ValueError, OverflowError, IndexError):
            seconds = 0
    return (result, max(0, min(seconds, longest)))
""",
    "jitter": """
import math

def reopening_wait(attempt, rng, first, multiplier, longest):
    steps = math.log(longest / first, multiplier)
    ceiling = first * multiplier ** min(attempt, steps)
    ceiling = min(ceiling, longest)
    low = 0.3 * ceiling
    return low + (ceiling - low) * rng.random()
""",
}
