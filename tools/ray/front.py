"""Serves a model from replicas all over a Ray cluster, at one address of loopback, until it is told to end.

Usage: front.py ADDRESS SETTINGS.json, where the settings are what `cargo xtask cluster serve` writes. Prints one JSON object with the url when
requests are taken; SIGTERM or SIGINT lets answers under way finish and removes the application. Every request gets a lease of the replica that
Serve chooses (serving.py) and is handed on to it as it is. Where a replica is lost, another one is asked: whole answers
anew, streams go on where they broke (resume.py). Deliberately absent: scaling and health, which are Serve's.
"""

import asyncio
import collections
import json
import logging
import pathlib
import random
import secrets
import signal
import sys
import time

import loopback
import ray
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web
from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.exceptions import BackPressureError

import node
import resume
import routing
import serving

log = logging.getLogger("front")

NAME = "bitnet"
# Of one connection, never of what it carries; and what is the front's own to say.
HOP = {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade"}
OURS = HOP | {"host", "content-length", "authorization", "origin", "accept-encoding"}
# Seconds after a loss in which a replica must be found that goes on: a lost one is replaced in less. And between two tries.
PATIENCE, PAUSE = 120, 1.0
SKIP = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
MAX_BODY = 64 << 20
# Seconds from its beginning in which a lease is used for other requests.
KEEP = 2.0


def application(settings, files, key):
    parallel, drain = settings["parallel"], settings["drain"]
    scaling = AutoscalingConfig(
        min_replicas=settings["min"],
        initial_replicas=settings["min"],
        max_replicas=settings["max"],
        # Half of what a replica computes side by side: there is room for what comes while another one starts.
        target_ongoing_requests=max(1, parallel // 2),
        upscale_delay_s=5,
        downscale_delay_s=60,
    )
    server = serve.deployment(
        serving.Server,
        name="Server",
        autoscaling_config=scaling,
        max_ongoing_requests=2 * parallel,
        max_queued_requests=4096,
        request_router_config=RequestRouterConfig(
            request_router_class=serving.PrefixRouter, request_router_kwargs={"slack": max(1, parallel // 16)}
        ),
        health_check_period_s=1,
        health_check_timeout_s=5,
        max_constructor_retry_count=3,
        # The binary keeps a log of its own.
        logging_config={"enable_access_log": False},
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=drain + 10,
        ray_actor_options={"num_cpus": settings["cpus"], "num_gpus": settings["gpus"]},
    )
    arguments = ["--parallel", str(parallel), "--queue-per-client", "256", *settings["arguments"]]
    return server.bind(files, arguments, drain, key)


class Gone(Exception):
    """The client went away."""


class Front:
    def __init__(self, servers, key, seeds):
        """`seeds`: whether sampled requests without a seed get one, so that their answers can be had again."""
        self.leases, self.key, self.seeds = Leases(servers.options(stream=True).lease), key, seeds
        # Replicas close connections that nothing came over for 30 seconds.
        timeout, connector = ClientTimeout(total=None, sock_connect=10), TCPConnector(limit=0, keepalive_timeout=10)
        self.session = ClientSession(timeout=timeout, connector=connector, auto_decompress=False)

    async def __call__(self, request):
        if not loopback.is_asked(request.headers):
            return refusal(403, "forbidden", "only requests that name this machine as their host, of its own pages, are answered")
        body = await request.read()
        if self.seeds and request.method == "POST":
            body = resume.seeded(request.path, body, random.getrandbits(62))
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in OURS]
        headers.append(("Authorization", f"Bearer {self.key}"))
        asked = {"headers": headers, "data": body or None, "allow_redirects": False, "skip_auto_headers": SKIP}
        wanted = {"keys": routing.keys(request.path, body), "avoid": []}
        answer, pause = Answer(request), 0.05
        while True:
            lease = None
            try:
                lease = await self.leases.take(wanted)
                response = await self.ask(lease, answer, request, asked)
                self.leases.give(lease)
                lease = None
                return response
            except Gone:
                return answer.response
            except resume.Differs as error:
                log.error("an answer could not be gone on with: %s", error)
                return await answer.break_off("engine_failed", f"the answer could not be gone on with: {error}")
            except (ClientError, OSError, TimeoutError, ray.exceptions.RayError, BackPressureError, resume.Broken) as error:
                if isinstance(error, BackPressureError) and answer.response is None:
                    return refusal(429, "rate_limit_exceeded", "too many requests wait for a replica")
                why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                log.warning("a replica was lost, %d events sent: %s", len(answer.events.sent), why)
                if answer.is_given_up():
                    return await answer.break_off("engine_failed", f"no replica gave the whole answer; the last: {why}")
            finally:
                if lease:
                    wanted["avoid"].append(lease.replica)
                    self.leases.drop(lease)
            await asyncio.sleep(pause)
            pause = min(PAUSE, 2 * pause)

    async def ask(self, lease, answer, request, asked):
        """The whole answer of the replica that the lease is of; raises where it is lost."""
        serving.UNDER_WAY[lease.replica] += 1
        work = asyncio.ensure_future(self.hand_on(lease.url, answer, request, asked))
        try:
            # A node that is gone may leave its connections open: then the lease ends first.
            await asyncio.wait((work, lease.end), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise resume.Broken("a replica is gone")
            return work.result()
        finally:
            serving.UNDER_WAY[lease.replica] -= 1
            if not work.done():
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)

    async def hand_on(self, url, answer, request, asked):
        async with self.session.request(request.method, url + request.path_qs, **asked) as reply:
            headers = [(name, value) for name, value in reply.headers.items() if name.lower() not in HOP]
            if reply.status == 200 and reply.content_type == "text/event-stream":
                return await answer.stream(reply, headers)
            whole = await reply.read()
            if answer.response or resume.is_elsewhere(reply.status, whole):
                raise resume.Broken(f"a replica answered with {reply.status}")
            kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
            return web.Response(status=reply.status, body=whole, headers=kept)


class Lease:
    """A place in a replica, until it is given back or the replica is gone."""

    def __init__(self, generator, place):
        self.generator, self.replica, self.url = generator, place["replica"], place["url"]
        self.begun = time.monotonic()
        self.end = asyncio.ensure_future(self._last())

    async def _last(self):
        try:
            async for _ in self.generator:
                pass
        except ray.exceptions.RayError:
            pass

    def drop(self):
        self.end.cancel()
        self.generator.cancel()


class Leases:
    """Leases of replicas. One costs Ray more than a short answer costs the engine, so each is kept for a moment for the next request.

    For a moment only: new replicas are found by asking Serve, and one that is to end must lose its requests.
    """

    def __init__(self, ask):
        self.ask, self.idle, self.known = ask, collections.defaultdict(list), collections.Counter()

    async def take(self, wanted):
        loads = {name: serving.UNDER_WAY[name] for name, leases in self.known.items() if leases}
        for name in serving.PREFIXES.order(wanted["keys"], loads, wanted["avoid"])[:1]:
            while self.idle[name]:
                lease = self.idle[name].pop()
                if self.is_good(lease) and name not in wanted["avoid"]:
                    serving.PREFIXES.remember(wanted["keys"], name)
                    return lease
                self.drop(lease)
        generator = self.ask.remote(wanted)
        try:
            place = await anext(generator, None)
        except BaseException:
            generator.cancel()
            raise
        if place is None:
            raise resume.Broken("a replica ended before it said where it is")
        self.known[place["replica"]] += 1
        return Lease(generator, place)

    def give(self, lease):
        self.idle[lease.replica].append(lease)
        asyncio.get_running_loop().call_later(KEEP, self.expire, lease)

    def expire(self, lease):
        if lease in self.idle[lease.replica] and not self.is_good(lease):
            self.idle[lease.replica].remove(lease)
            self.drop(lease)

    def is_good(self, lease):
        return not lease.end.done() and time.monotonic() < lease.begun + KEEP

    def drop(self, lease):
        self.known[lease.replica] -= 1
        lease.drop()


class Answer:
    """What a client gets, from as many replicas as it takes."""

    def __init__(self, request):
        self.request, self.response, self.events = request, None, resume.Stream()
        self.since = None

    async def stream(self, reply, headers):
        if self.response is None:
            self.response = web.StreamResponse(status=200, headers=headers)
            await self.response.prepare(self.request)
        else:
            self.events.begin()
        async for data in reply.content.iter_any():
            if more := self.events.feed(data):
                await self.write(more)
        self.events.end()
        return self.response

    def is_given_up(self):
        """Whether replicas have been lost for long without anything new for the client."""
        self.since = self.since or time.monotonic()
        return time.monotonic() > self.since + PATIENCE

    async def write(self, data):
        self.since = None
        try:
            await self.response.write(data)
        except OSError as error:
            raise Gone from error

    async def break_off(self, code, message):
        if self.response is None:
            return refusal(503, code, message)
        await self.write(f"data: {error(code, message)}\n\n".encode())
        return self.response


def error(code, message):
    return json.dumps({"error": {"message": message, "type": "server_error", "param": None, "code": code}})


def refusal(status, code, message):
    return web.Response(status=status, text=error(code, message), content_type="application/json")


async def listen(servers, settings, key, ended):
    front = Front(servers, key, "--seed" not in settings["arguments"])
    app = web.Application(client_max_size=MAX_BODY)
    app.router.add_route("*", "/{path:.*}", front)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=settings["drain"])
    await runner.setup()
    site = web.TCPSite(runner, loopback.HOST, settings["port"], backlog=1024)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    print(json.dumps({"url": f"http://{loopback.HOST}:{port}"}), flush=True)
    await ended.wait()
    # Takes no more, and lets what is under way finish.
    await runner.cleanup()
    await front.session.close()


async def run(settings, address):
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loopback.connect(address)
    # Ray installs handlers of its own; these come after.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    key = secrets.token_hex(24)
    serve.start(proxy_location="Disabled")
    files = node.offer(settings["files"], loopback.is_local(address))
    started = loop.run_in_executor(None, lambda: serve.run(application(settings, files, key), name=NAME, route_prefix=None))
    stopped = asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait({started, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.is_set():
            await listen(started.result(), settings, key, ended)
    finally:
        await loop.run_in_executor(None, serve.shutdown)


def main():
    address, settings = sys.argv[1:]
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(run(json.loads(pathlib.Path(settings).read_text()), address))


if __name__ == "__main__":
    main()
