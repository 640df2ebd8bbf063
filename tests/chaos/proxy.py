#!/usr/bin/python3
"""The wires between the sites of a chaos run: a TCP proxy that delays, holds and resets what passes.

Standard input, one JSON object a line. First
    {"sites": [{"listen": "10.98.0.1", "target": "10.99.1.2", "source": "10.99.1.2", "ports": [7700, ...]}, ...]}
which is answered with the line "ready". Then, at any time,
    {"delay": [FROM, TO], "ms": N}        bytes from site FROM to site TO take so long
    {"hold": [FROM, TO], "on": true}      bytes, and ends of connections, wait until it is off again: a cut or a stall
    {"reset": [A, B]}                     every connection between the two is reset, in both directions
End of input ends the proxy.

A connection keeps its order, as TCP does; nothing is lost or changed on it. While a way is held new connections over it
are accepted and then silent, as behind a router that drops packets. What waits on a connection is bounded: beyond
QUEUE_BYTES_MAX its sender is not read from, so it feels a full window.
"""
import asyncio
import collections
import json
import socket
import struct
import sys

QUEUE_BYTES_MAX = 1 << 20


class Way:
    """The direction from one site to another."""

    def __init__(self):
        self.delay_s = 0.0
        self.held = False
        self.flows = set()

    def hold(self, on):
        self.held = on
        if not on:
            for flow in list(self.flows):
                flow.pump()


class Flow:
    """One direction of one connection: bytes on their way to `out`."""

    def __init__(self, way, link):
        self.way, self.link, self.loop = way, link, link.proxy.loop
        self.queue = collections.deque()  # (due, bytes; None: the end)
        self.bytes = 0
        self.due = 0.0
        self.source = self.out = None  # transports
        self.timer = None
        way.flows.add(self)

    def put(self, data):
        self.due = max(self.due, self.loop.time() + self.way.delay_s)
        self.queue.append((self.due, data))
        self.bytes += len(data or b"")
        if self.bytes > QUEUE_BYTES_MAX and not self.source.is_closing():
            self.source.pause_reading()
        self.pump()

    def pump(self):
        """Delivers what is due, and comes back for the rest."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        while self.queue and self.out is not None and not self.way.held:
            due, data = self.queue[0]
            if due > self.loop.time():
                self.timer = self.loop.call_at(due, self.pump)
                break
            self.queue.popleft()
            if data is None:
                self.out.close()
                self.end()
                return
            self.bytes -= len(data)
            if not self.out.is_closing():
                self.out.write(data)
        if self.bytes <= QUEUE_BYTES_MAX // 2 and self.source is not None and not self.source.is_closing():
            self.source.resume_reading()

    def end(self):
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.queue.clear()
        self.way.flows.discard(self)
        self.link.ended()


class Side(asyncio.Protocol):
    """One end of a connection: what it says goes into `flow`."""

    def __init__(self, link):
        self.link = link
        self.flow = None

    def connection_made(self, transport):
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data):
        self.flow.put(data)

    def connection_lost(self, _):
        if self.flow is not None:
            self.flow.put(None)


class Link:
    """A connection from site `a`, who dialled, to site `b`."""

    def __init__(self, proxy, a, b):
        self.proxy = proxy
        self.pair = (a, b)
        self.there, self.back = Flow(proxy.way(a, b), self), Flow(proxy.way(b, a), self)
        self.dialler, self.answerer = Side(self), Side(self)
        self.dialler.flow, self.answerer.flow = self.there, self.back

    async def connect(self, host, port):
        try:
            await self.proxy.loop.create_connection(lambda: self.answerer, host, port)
        except OSError:
            self.reset()  # nobody listens there: as a refusal after the handshake
            return
        self.there.out = self.back.source = self.answerer.transport
        self.there.source = self.back.out = self.dialler.transport
        self.there.pump()
        self.back.pump()

    def reset(self):
        for side in (self.dialler, self.answerer):
            transport = getattr(side, "transport", None)
            if transport is not None and not transport.is_closing():
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                                              struct.pack("ii", 1, 0))
                transport.abort()
        self.there.end()
        self.back.end()

    def ended(self):
        if self.there not in self.there.way.flows and self.back not in self.back.way.flows:
            self.proxy.links.discard(self)


class Proxy:
    def __init__(self, loop, sites):
        self.loop, self.sites = loop, sites
        self.ways = {}
        self.links = set()
        self.by_source = {site["source"]: index for index, site in enumerate(sites)}

    def way(self, a, b):
        return self.ways.setdefault((a, b), Way())

    async def listen(self):
        for index, site in enumerate(self.sites):
            for port in site["ports"]:
                await self.loop.create_server(lambda i=index, p=port: self.accepted(i, p), site["listen"], port)

    def accepted(self, index, port):
        proxy = self

        class Accepted(Side):
            def __init__(self):
                super().__init__(None)

            def connection_made(self, transport):
                super().connection_made(transport)
                source = proxy.by_source.get(transport.get_extra_info("peername")[0])
                if source is None:
                    transport.abort()
                    return
                link = Link(proxy, source, index)
                self.link, self.flow = link, link.there
                link.dialler = self
                link.there.source = transport
                proxy.links.add(link)
                proxy.loop.create_task(link.connect(proxy.sites[index]["target"], port))

        return Accepted()

    def rule(self, rule):
        if "delay" in rule:
            self.way(*rule["delay"]).delay_s = rule["ms"] / 1000
        elif "hold" in rule:
            self.way(*rule["hold"]).hold(rule["on"])
        elif "reset" in rule:
            pair = set(rule["reset"])
            for link in [link for link in self.links if set(link.pair) == pair]:
                link.reset()
        else:
            raise SystemExit("proxy: no such rule: %r" % rule)


async def main():
    loop = asyncio.get_running_loop()
    rules = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(rules), sys.stdin)
    proxy = Proxy(loop, json.loads(await rules.readline())["sites"])
    await proxy.listen()
    print("ready", flush=True)
    while line := await rules.readline():
        proxy.rule(json.loads(line))


if __name__ == "__main__":
    asyncio.run(main())
