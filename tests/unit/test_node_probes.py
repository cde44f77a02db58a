"""The kubelet's rules of probes, on a clock that the test moves; HTTP and TCP are real."""

import asyncio
import socket
from dataclasses import dataclass

import pytest
from aiohttp import web

from aiinfra_lab.clock import ManualClock
from aiinfra_lab.errors import AIInfraLabError
from aiinfra_lab.kube.node.actions import ActionError, resolve_port
from aiinfra_lab.kube.node.probes import Prober
from aiinfra_lab.tls import Authority, server_context

HOST = "127.0.0.1"


@dataclass
class Ran:
    exit_code: int = 0
    output: bytes = b""
    timed_out: bool = False


class Commands:
    """A runtime whose commands end as the test says, for ever with the last of the results."""

    def __init__(self, *results):
        self.results, self.calls = list(results) or [Ran()], []

    async def execute(self, run, argv, *, stdin=b"", timeout=None, limit=1 << 20):
        self.calls.append((run, tuple(argv), timeout))
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, BaseException):
            raise result
        return result


def by(word, **fields):
    return {"exec": {"command": [word]}, **fields}


class Case:
    """A prober with everything around it."""

    def __init__(self, runtime=None, *, age=0.0, ip=HOST, **container):
        self.clock, self.runtime = ManualClock(), runtime or Commands()
        self.changes, self.complaints = 0, []
        self.prober = Prober(
            {"name": "c", **container},
            "uid.c.0",
            ip,
            self.runtime,
            self.count,
            lambda kind, message: self.complaints.append((kind, message)),
            age=age,
            clock=self.clock,
        )

    def count(self):
        self.changes += 1

    @property
    def state(self):
        return self.prober.started, self.prober.ready, bool(self.prober.must_restart)

    async def advance(self, seconds=0.0):
        """Let time pass second by second, and what is due happen."""
        await settle()
        for _ in range(round(seconds)):
            self.clock.advance(1)
            await settle()

    async def __aenter__(self):
        self.prober.begin()
        await settle()
        return self

    async def __aexit__(self, *_):
        await self.prober.close()


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


FAILS, WORKS = Ran(1, b"not yet\n"), Ran()


async def test_without_probes_it_is_started_and_ready():
    async with Case() as case:
        await case.advance(60)
        assert case.state == (True, True, False)
        assert case.runtime.calls == []
        assert case.changes == 0


async def test_readiness_is_false_until_its_first_success():
    probe = by("look", periodSeconds=5, timeoutSeconds=2)
    async with Case(Commands(FAILS, WORKS), readinessProbe=probe) as case:
        assert case.state == (True, False, False)
        assert case.runtime.calls == [("uid.c.0", ("look",), 2.0)]
        assert case.complaints == [("Readiness", "not yet")]
        await case.advance(4)
        assert len(case.runtime.calls) == 1
        await case.advance(1)
        assert case.state == (True, True, False)
        assert case.changes == 1


async def test_readiness_is_lost_after_as_many_failures_in_a_row_as_it_says():
    results = (WORKS, FAILS, WORKS, FAILS, FAILS, FAILS, WORKS)
    probe = by("look", periodSeconds=1, failureThreshold=3)
    async with Case(Commands(*results), readinessProbe=probe) as case:
        seen = [case.prober.ready]
        for _ in results[1:]:
            await case.advance(1)
            seen.append(case.prober.ready)
    assert seen == [True, True, True, True, True, False, True]
    assert case.changes == 3
    assert not case.prober.must_restart


async def test_readiness_needs_as_many_successes_in_a_row_as_it_says():
    results = (WORKS, FAILS, WORKS, WORKS)
    probe = by("look", periodSeconds=1, successThreshold=2)
    async with Case(Commands(*results), readinessProbe=probe) as case:
        seen = [case.prober.ready]
        for _ in results[1:]:
            await case.advance(1)
            seen.append(case.prober.ready)
    assert seen == [False, False, False, True]


async def test_liveness_gives_up_after_failures_in_a_row_and_then_probes_no_more():
    results = (FAILS, FAILS, WORKS, FAILS, FAILS, FAILS)
    probe = by("look", periodSeconds=1, terminationGracePeriodSeconds=0)
    async with Case(Commands(*results), livenessProbe=probe) as case:
        await case.advance(4)
        assert case.state == (True, True, False)
        assert case.changes == 0
        await case.advance(1)
        assert case.prober.must_restart == "Container c failed liveness probe"
        assert case.prober.grace == 0.0
        assert case.changes == 1
        await case.advance(30)
        assert len(case.runtime.calls) == 6


async def test_a_container_that_is_given_up_is_probed_no_more_at_all():
    live = by("live", periodSeconds=1, failureThreshold=3)
    ready = by("ready", periodSeconds=1, failureThreshold=100)
    async with Case(Commands(FAILS), livenessProbe=live, readinessProbe=ready) as case:
        await case.advance(2)
        assert case.prober.must_restart
        count = len(case.runtime.calls)
        await case.advance(5)
        assert len(case.runtime.calls) == count


async def test_probes_keep_their_pace_however_long_one_takes():
    class Slow(Commands):
        async def execute(self, run, argv, **options):
            self.calls.append(case.clock.monotonic())
            await case.clock.sleep((1, 3, 12, 1)[len(self.calls) - 1])
            return WORKS

    case = Case(Slow(), readinessProbe=by("look", periodSeconds=5))
    async with case:
        await case.advance(25)
    # The third took longer than a period: the next follows at once.
    assert case.runtime.calls == [0, 5, 10, 22]


async def test_defaults_are_those_of_kubernetes():
    async with Case(Commands(FAILS), livenessProbe=by("look")) as case:
        assert case.runtime.calls[0][2] == 1.0
        await case.advance(19)
        assert not case.prober.must_restart
        await case.advance(1)  # the third failure, every 10 s
        assert case.prober.must_restart
        assert case.prober.grace is None


async def test_until_the_startup_probe_succeeds_the_others_wait():
    class Each(Commands):
        async def execute(self, run, argv, **options):
            self.calls.append(argv[0])
            return Ran(0 if argv[0] != "start" or self.calls.count("start") > 3 else 1)

    async with Case(
        Each(),
        startupProbe=by("start", periodSeconds=2, failureThreshold=10),
        livenessProbe=by("live", periodSeconds=1, failureThreshold=1),
        readinessProbe=by("ready", periodSeconds=1),
    ) as case:
        await case.advance(5)
        assert case.runtime.calls == ["start"] * 3
        assert case.state == (False, False, False)
        await case.advance(1)
        assert case.state == (True, True, False)
        assert sorted(case.runtime.calls[3:6]) == ["live", "ready", "start"]
        await case.advance(10)
        assert case.runtime.calls.count("start") == 4  # it has done its work


async def test_a_started_container_without_readiness_probe_is_ready():
    async with Case(Commands(FAILS, WORKS), startupProbe=by("s", periodSeconds=1)) as case:
        assert case.state == (False, False, False)
        await case.advance(1)
        assert case.state == (True, True, False)
        assert case.changes == 1


async def test_a_startup_probe_that_never_succeeds_gives_up():
    probe = by("s", periodSeconds=1, failureThreshold=2)
    async with Case(Commands(FAILS), startupProbe=probe, readinessProbe=by("r")) as case:
        await case.advance(1)
        assert case.prober.must_restart == "Container c failed startup probe"
        assert case.state == (False, False, True)
        await case.advance(30)
        assert [argv for _, argv, _ in case.runtime.calls] == [("s",)] * 2


async def test_the_initial_delay_counts_from_the_containers_start():
    async with Case(readinessProbe=by("look", initialDelaySeconds=7)) as case:
        await case.advance(6)
        assert case.runtime.calls == []
        await case.advance(1)
        assert case.prober.ready
    async with Case(readinessProbe=by("look", initialDelaySeconds=7), age=5) as case:
        await case.advance(1)
        assert case.runtime.calls == []
        await case.advance(1)
        assert case.prober.ready
    async with Case(readinessProbe=by("look", initialDelaySeconds=7), age=60) as case:
        assert case.prober.ready


async def test_what_was_known_before_the_agents_restart_is_kept():
    case = Case(Commands(FAILS), startupProbe=by("s"), readinessProbe=by("r", failureThreshold=2))
    case.prober.started = case.prober.ready = True
    async with case:
        assert case.state == (True, True, False)
        assert [argv for _, argv, _ in case.runtime.calls] == [("r",)]
        await case.advance(10)
        assert case.state == (True, False, False)


async def test_a_probe_that_cannot_be_made_counts_neither_way():
    away = AIInfraLabError("the container runtime has ended")
    probe = by("look", periodSeconds=1, failureThreshold=2)
    results = (FAILS, away, away, away, FAILS)
    async with Case(Commands(*results), livenessProbe=probe) as case:
        await case.advance(3)
        assert not case.prober.must_restart
        assert case.complaints[1] == (
            "Liveness",
            "the probe could not be made: the container runtime has ended",
        )
        await case.advance(1)
        assert case.prober.must_restart  # two in a row, with nothing that counts between them


async def test_a_surprise_does_not_end_the_probes(caplog):
    probe = by("look", periodSeconds=1)
    async with Case(Commands(KeyError("x"), WORKS), readinessProbe=probe) as case:
        await case.advance(1)
        assert case.prober.ready
    assert "readiness probe of uid.c.0" in caplog.text


async def test_a_command_that_takes_too_long_has_failed():
    probe = by("look", timeoutSeconds=3)
    async with Case(Commands(Ran(137, b"", True)), readinessProbe=probe) as case:
        assert case.complaints == [("Readiness", "command 'look' timed out after 3 s")]


async def test_a_command_is_expanded_by_the_containers_own_variables():
    env = [{"name": "PORT", "value": "80"}, {"name": "SECRET", "valueFrom": {}}]
    probe = by("look $(PORT) $(OTHER) $$(PORT)")
    async with Case(readinessProbe=probe, env=env) as case:
        assert case.runtime.calls[0][1] == ("look 80 $(OTHER) $(PORT)",)


async def test_close_gives_up_a_probe_that_is_under_way():
    class Stuck(Commands):
        async def execute(self, *_, **__):
            self.calls.append("began")
            try:
                await asyncio.sleep(3600)
            finally:
                self.calls.append("ended")

    case = Case(Stuck(), readinessProbe=by("look"), livenessProbe=by("live"))
    async with case:
        assert case.runtime.calls == ["began", "began"]
    assert case.runtime.calls[2:] == ["ended", "ended"]


@pytest.mark.parametrize(
    ("probe", "complaint"),
    [
        ({"grpc": {"port": 1}}, "this node makes no gRPC probes"),
        ({"exec": {"command": []}}, "no command"),
        ({"exec": {}}, "no command"),
        ({"httpGet": {"port": "web"}}, "'c' has no port named 'web'"),
        ({"tcpSocket": {"port": 0}}, "from 1 to 65535"),
        ({}, "without an action"),
    ],
)
async def test_a_probe_that_makes_no_sense_is_told(probe, complaint):
    async with Case(readinessProbe={**probe, "periodSeconds": 1}) as case:
        assert not case.prober.ready
        assert complaint in case.complaints[0][1]
        assert case.complaints[0][1].startswith("the probe could not be made")


def test_ports_by_number_and_by_name():
    container = {"name": "c", "ports": [{"containerPort": 1}, {"name": "web", "containerPort": 80}]}
    assert resolve_port(8080, container) == resolve_port("8080", {}) == 8080
    assert resolve_port("web", container) == 80
    for port in ("www", "", 65536, -1):
        with pytest.raises(ActionError):
            resolve_port(port, container)


class Site:
    """An HTTP server that does what its paths say, and keeps what it was sent."""

    def __init__(self, **tls):
        self.requests = []
        self.tls = tls

    async def handle(self, request):
        self.requests.append(request)
        name = request.path.strip("/")
        if name == "slow":
            await asyncio.sleep(3600)
        if name == "here":
            raise web.HTTPFound("/200")
        if name == "away":
            raise web.HTTPFound("http://localhost.invalid/500")
        if name == "round":
            raise web.HTTPFound("/round")
        return web.Response(status=int(name or 200), text="x" * 50_000)

    async def __aenter__(self):
        app = web.Application()
        app.router.add_get("/{tail:.*}", self.handle)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self.runner.setup()
        await web.TCPSite(self.runner, HOST, 0, **self.tls).start()
        self.port = self.runner.addresses[0][1]
        return self

    async def __aexit__(self, *_):
        await self.runner.cleanup()


async def result(case):
    """What the first probe came to; by real time, because the network is."""
    async with case, asyncio.timeout(20):
        while not case.complaints and not case.prober.ready:
            await asyncio.sleep(0.005)
        return case.prober.ready or case.complaints[0][1]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/200", True),
        ("204", True),
        ("/399", True),
        ("", True),
        ("/400", "HTTP probe failed with statuscode: 400"),
        ("/503", "HTTP probe failed with statuscode: 503"),
        ("/here", True),  # followed on the same host
        ("/away", True),  # a redirect to another host is an answer
        ("/round", "stopped after 10 redirects"),
    ],
)
async def test_http(path, expected):
    async with Site() as site:
        action = {"port": site.port, "path": path}
        assert await result(Case(readinessProbe={"httpGet": action})) == expected


async def test_http_headers_and_a_port_by_its_name():
    async with Site() as site:
        headers = [{"name": "X-A", "value": "1"}, {"name": "Host", "value": "shop.example"}]
        action = {"port": "web", "path": "/200?a=%41%20b", "httpHeaders": headers}
        ports = [{"name": "web", "containerPort": site.port}]
        assert await result(Case(readinessProbe={"httpGet": action}, ports=ports)) is True
        sent = site.requests[0]
        assert (sent.headers["X-A"], sent.headers["Host"]) == ("1", "shop.example")
        assert sent.headers["User-Agent"] == "kube-probe"
        assert sent.raw_path == "/200?a=%41%20b"


async def test_https_without_a_certificate_that_anybody_trusts(tmp_path):
    shown = Authority.create("nobody's").issue("x", hosts=("example.org",), server=True)
    context = server_context(*shown.write(tmp_path, "x"))
    async with Site(ssl_context=context) as site:
        action = {"port": site.port, "scheme": "HTTPS", "path": "/200"}
        assert await result(Case(readinessProbe={"httpGet": action})) is True


async def test_http_to_the_pods_own_address_unless_a_host_is_given():
    async with Site() as site:
        own = {"port": site.port, "path": "/200"}
        assert await result(Case(ip="127.0.0.2", readinessProbe={"httpGet": own})) is not True
        other = own | {"host": HOST}
        assert await result(Case(ip="127.0.0.2", readinessProbe={"httpGet": other})) is True


async def test_http_that_does_not_answer_in_time():
    async with Site() as site:
        probe = {"httpGet": {"port": site.port, "path": "/slow"}, "timeoutSeconds": 0.05}
        said = await result(Case(readinessProbe=probe))
        assert said == f'Get "http://{HOST}:{site.port}/slow": no answer in 0.05 s'


async def test_a_port_where_nobody_listens():
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        port = taken.getsockname()[1]
        said = await result(Case(readinessProbe={"httpGet": {"port": port}}))
        assert said == f'Get "http://{HOST}:{port}/": Connection refused'
        said = await result(Case(readinessProbe={"tcpSocket": {"port": port}}))
        assert said == f"dial tcp {HOST}:{port}: Connection refused"


async def test_tcp():
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        assert await result(Case(readinessProbe={"tcpSocket": {"port": port}})) is True
        action = {"port": port, "host": HOST}
        assert await result(Case(ip="127.0.0.2", readinessProbe={"tcpSocket": action})) is True
