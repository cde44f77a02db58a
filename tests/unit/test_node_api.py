"""The agent's client on a small HTTP server: errors, patience, and a watch that never ends."""

import asyncio
import json
import ssl

import pytest
from aiohttp import web

from aiinfra_lab.kube.node.api import Api, ApiAway, ApiError


def pod(name, version):
    return {"metadata": {"name": name, "resourceVersion": str(version)}}


class Server:
    """An API server whose lists, watches and answers a test scripts."""

    def __init__(self):
        self.lists, self.watches, self.asked, self.answers = [], [], [], []
        self.runner = None

    async def start(self, port=0):
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", port, reuse_address=True)
        await site.start()
        self.port = self.runner.addresses[0][1]
        return self

    async def close(self):
        await self.runner.cleanup()

    async def answer(self, request):
        body = await request.read()
        self.asked.append(
            (request.method, request.path, dict(request.query), body, request.headers)
        )
        if "watch" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            script = self.watches.pop(0) if self.watches else [None]
            for event in script:
                if event is None:
                    await asyncio.sleep(60)
                text = event if isinstance(event, bytes) else json.dumps(event).encode() + b"\n"
                await response.write(text)
            return response
        if self.answers:
            status, headers, document = self.answers.pop(0)
            return web.json_response(document, status=status, headers=headers)
        version, *names = self.lists.pop(0)
        items = [pod(name, version) for name in names]
        return web.json_response({"metadata": {"resourceVersion": version}, "items": items})

    def watched_from(self):
        return [query["resourceVersion"] for _, _, query, _, _ in self.asked if "watch" in query]


@pytest.fixture
async def server():
    made = await Server().start()
    yield made
    await made.close()


@pytest.fixture
async def api(server):
    made = Api(f"http://127.0.0.1:{server.port}/", ssl.create_default_context())
    yield made
    await made.close()


def event(kind, name, version):
    return {"type": kind, "object": pod(name, version)}


async def take(watch, count):
    async with asyncio.timeout(20):
        return [(kind, found) async for kind, found in _first(watch, count)]


async def _first(watch, count):
    for _ in range(count):
        yield await anext(watch)


async def test_a_watch_begins_with_all_there_is_and_goes_on_with_changes(api, server):
    server.lists = [["5", "a"]]
    server.watches = [[event("ADDED", "b", 6), event("DELETED", "a", 7), None]]
    seen = await take(api.watch("/pods", fieldSelector="x=y"), 3)
    assert [kind for kind, _ in seen] == ["SYNCED", "ADDED", "DELETED"]
    assert [item["metadata"]["name"] for item in seen[0][1]["items"]] == ["a"]
    assert server.watched_from() == ["5"]
    assert all(query["fieldSelector"] == "x=y" for _, _, query, _, _ in server.asked)


async def test_a_watch_that_is_cut_goes_on_where_it_was_and_bookmarks_count(api, server):
    server.lists = [["5"]]
    bookmark = {"type": "BOOKMARK", "object": pod("", 9)}
    server.watches = [[event("ADDED", "a", 6)], [bookmark], [event("ADDED", "b", 10), None]]
    seen = await take(api.watch("/pods"), 3)
    assert [kind for kind, _ in seen] == ["SYNCED", "ADDED", "ADDED"]
    assert server.watched_from() == ["5", "6", "9"]


async def test_a_version_that_is_gone_means_a_new_list(api, server):
    server.lists = [["5", "a"], ["50", "b"]]
    gone = {"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}
    server.watches = [[gone], [None]]
    seen = await take(api.watch("/pods"), 2)
    assert [kind for kind, _ in seen] == ["SYNCED", "SYNCED"]
    assert seen[1][1]["items"][0]["metadata"]["name"] == "b"


async def test_a_line_may_be_long_and_come_in_pieces(api, server):
    server.lists = [["5"]]
    long = event("ADDED", "a", 6)
    long["object"]["spec"] = "x" * 700_000
    text = json.dumps(long).encode() + b"\n" + json.dumps(event("ADDED", "b", 7)).encode()
    server.watches = [[text[:300_000], text[300_000:], b"\n", None]]
    seen = await take(api.watch("/pods"), 3)
    assert len(seen[1][1]["spec"]) == 700_000
    assert seen[2][1]["metadata"]["name"] == "b"


async def test_a_watch_outlives_the_server(api, server):
    server.lists = [["5", "a"]]
    server.watches = [[event("ADDED", "b", 6)]]
    watch = api.watch("/pods")
    await take(watch, 2)
    await server.close()
    later = asyncio.ensure_future(take(watch, 1))
    await asyncio.sleep(0.2)
    assert not later.done()
    again = Server()
    again.watches = [[event("ADDED", "c", 8), None]]
    await again.start(server.port)
    assert (await later)[0][1]["metadata"]["name"] == "c"
    assert again.watched_from()[-1] == "6"
    await again.close()


async def test_a_list_that_is_refused_is_asked_again(api, server):
    server.answers = [(403, {}, {"message": "not yet", "reason": "Forbidden"})]
    server.lists = [["5", "a"]]
    server.watches = [[None]]
    assert (await take(api.watch("/pods"), 1))[0][0] == "SYNCED"


async def test_errors_carry_the_servers_own_words(api, server):
    server.answers = [(409, {}, {"message": "it is there", "reason": "AlreadyExists"})]
    with pytest.raises(ApiError, match="it is there") as raised:
        await api.create("/nodes", {})
    assert (raised.value.status, raised.value.reason) == (409, "AlreadyExists")


async def test_nobody_there_is_away(server):
    made = Api("http://127.0.0.1:9", ssl.create_default_context())
    with pytest.raises(ApiAway):
        await made.get("/nodes")
    await made.close()
    with pytest.raises(ApiAway):
        await made.get("/nodes")


async def test_a_request_that_is_put_off_is_made_again(api, server):
    server.answers = [(429, {"Retry-After": "0"}, {}), (200, {}, {"fine": True})]
    assert await api.get("/nodes") == {"fine": True}
    server.answers = [(429, {}, {"message": "never"})]
    with pytest.raises(ApiError, match="never"):
        await api.get("/nodes")


@pytest.mark.parametrize(
    ("strategy", "kind"), [("strategic", "strategic-merge-patch"), ("merge", "merge-patch")]
)
async def test_a_patch_says_how_it_merges(api, server, strategy, kind):
    server.answers = [(200, {}, {})]
    await api.patch("/pods/a/status", {"status": {}}, strategy=strategy)
    method, path, _, body, headers = server.asked[0]
    assert (method, path, json.loads(body)) == ("PATCH", "/pods/a/status", {"status": {}})
    assert headers["Content-Type"] == f"application/{kind}+json"
