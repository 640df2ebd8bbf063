"""What goes over the wire while a job runs gives nothing of its input or output away."""
import contextlib
import ctypes
import fcntl
import os
import select
import socket
import struct
import threading
import time

import numpy

from harness import Skipped, expect

ETH_P_ALL = 3
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
CLONE_NEWNET = 0x40000000
LAST_PACKETS_S = 0.3
WINDOW = 32
MARKERS = 500
MARKER_BYTES = 16


libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def own_network():
    """A loopback interface of the test's own, where it may have one: nothing else is in its captures then."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(CLONE_NEWNET) == 0:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP))
        yield
    finally:
        libc.setns(before, CLONE_NEWNET)
        os.close(before)


class Capture:
    """All TCP bytes on the loopback interface, per direction of each connection, in the order of its sequence numbers: two packets
    that two cores handle may be captured the other way round."""

    def __init__(self):
        try:
            self.wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        except PermissionError:
            raise Skipped("needs root to capture packets") from None
        self.wire.setsockopt(socket.SOL_SOCKET, 33, 256 << 20)  # SO_RCVBUFFORCE
        self.wire.bind(("lo", 0))
        self.segments, self.dropped, self.end_at = {}, 0, float("inf")
        self.thread = threading.Thread(target=self.collect)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.end_at = time.monotonic() + LAST_PACKETS_S  # a busy interface is never silent
        self.thread.join()
        statistics = self.wire.getsockopt(263, 6, 8)  # SOL_PACKET, PACKET_STATISTICS: packets, drops
        self.dropped = int.from_bytes(statistics[4:8], "little")
        self.wire.close()

    def collect(self):
        while time.monotonic() < self.end_at:
            ready, _, _ = select.select([self.wire], [], [], 0.1)
            if not ready:
                continue
            frame, (_, _, kind, *_) = self.wire.recvfrom(1 << 17)
            if kind != socket.PACKET_OUTGOING:  # loopback shows each packet twice
                self.add(frame[14:])

    def add(self, packet):
        if len(packet) < 40 or packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
            return
        head = (packet[0] & 15) * 4
        ports, sequence = packet[head:head + 4], int.from_bytes(packet[head + 4:head + 8], "big")
        data = packet[head + (packet[head + 12] >> 4) * 4:int.from_bytes(packet[2:4], "big") or len(packet)]
        if data:
            self.segments.setdefault(ports, []).append((sequence, data))

    def bytes_seen(self):
        return sum(len(data) for segments in self.segments.values() for _, data in segments)

    def streams(self):
        return [put_in_order(segments) for segments in self.segments.values()]


def put_in_order(segments):
    """The bytes of (sequence number, bytes), without what was sent twice."""
    first, stream, end = segments[0][0], bytearray(), None
    for offset, data in sorted(((sequence - first + (1 << 31)) % (1 << 32), data) for sequence, data in segments):
        stream += data if end is None or offset >= end else data[end - offset:]
        end = max(offset + len(data), end or 0)
    return stream


def found_markers(streams, markers):
    return sum(any(marker in stream for stream in streams) for marker in markers)


FACTORS = numpy.random.default_rng(3).integers(1, 1 << 62, WINDOW, dtype=numpy.uint64) | numpy.uint64(1)
PIECE = 1 << 20


def window_sums(data):
    """A 64-bit sum of every non-constant 32-byte window, at every offset. Equal windows have equal sums; that two others
    among the millions here have the same one is a chance of a millionth."""
    array = numpy.frombuffer(bytes(data), numpy.uint8)
    sums = [numpy.zeros(0, numpy.uint64)]
    for start in range(0, max(0, len(array) - WINDOW + 1), PIECE):
        piece = array[start:start + PIECE + WINDOW - 1]
        count = len(piece) - WINDOW + 1
        total = numpy.zeros(count, numpy.uint64)
        constant = numpy.ones(count, bool)
        with numpy.errstate(over="ignore"):
            for place in range(WINDOW):
                column = piece[place:place + count]
                total += column.astype(numpy.uint64) * FACTORS[place]
                constant &= column == piece[:count]
        sums.append(total[~constant])
    return numpy.unique(numpy.concatenate(sums))


def found_windows(streams, secrets):
    """How many different windows of the secrets occur in the streams, and how many there are."""
    wanted = numpy.unique(numpy.concatenate([window_sums(secret) for secret in secrets]))
    seen = numpy.unique(numpy.concatenate([window_sums(stream) for stream in streams]))
    return len(numpy.intersect1d(wanted, seen, assume_unique=True)), len(wanted)


def replay(data):
    """The same bytes over a plain TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        def take():
            peer, _ = server.accept()
            with peer:
                while peer.recv(1 << 16):
                    pass
        taker = threading.Thread(target=take)
        taker.start()
        with socket.create_connection(server.getsockname()) as wire:
            wire.sendall(data)
        taker.join()


@own_network()
def nothing_of_a_job_is_readable_on_the_wire(place):
    mesh = place.mesh("ashburn", "berlin", work__cpu_slots=1)
    home = mesh["ashburn"]
    random = numpy.random.default_rng(11)
    markers = [os.urandom(MARKER_BYTES) for _ in range(MARKERS)]
    rows = random.integers(0, 256, (4000, 256), dtype=numpy.uint8)
    for i, marker in enumerate(markers):
        column = int(random.integers(0, 256 - MARKER_BYTES))
        rows[8 * i, column:column + MARKER_BYTES] = numpy.frombuffer(marker, numpy.uint8)
    data, out = place.path("data.npy"), place.path("sum.npy")
    numpy.save(data, rows)
    b = random.integers(-128, 128, (64, 256), dtype=numpy.int8)
    a = random.integers(-128, 128, (4000, 64), dtype=numpy.int8)
    numpy.save(place.path("a.npy"), a)
    numpy.save(place.path("b.npy"), b)
    product = place.path("c.npy")
    with Capture() as capture:
        # Once with inputs that ride inline, once with blobs that the other node fetches.
        home.submit("noop", "--input", "data=" + data, "--split", "data", "--shard-items", "40", "--cache", "off",
                    "--output", "sum=" + out)
        job = home.submit_detached("matmul", "--input", "a=" + place.path("a.npy"), "--split", "a", "--input",
                                   "b=" + place.path("b.npy"), "--shard-items", "100", "--cache", "off")
        done = home.wait_job(job)
        home.weir("submit", "--reattach", job, "--output", "c=" + product)
    expect(any(row["name"] == "berlin" and row["shards"] > 0 for row in done["by_node"]), "all ran at home: %s" % done)
    expect(capture.dropped == 0, "%d packets were missed" % capture.dropped)
    expect(capture.bytes_seen() > a.nbytes // 4, "only %d bytes were seen" % capture.bytes_seen())
    secrets = [rows.tobytes(), a.tobytes(), b.tobytes(), numpy.load(out).tobytes(), numpy.load(product).tobytes()]
    streams = capture.streams()
    expect(found_markers(streams, markers) == 0, "%d markers were on the wire" % found_markers(streams, markers))
    hits, wanted = found_windows(streams, secrets)
    expect(hits == 0, "%d of %d windows were on the wire" % (hits, wanted))
    with Capture() as plain:  # the same scanner is not blind
        for secret in secrets:
            replay(secret)
    streams = plain.streams()
    expect(found_markers(streams, markers) == MARKERS, "the scanner found %d markers of a plain-text replay" %
           found_markers(streams, markers))
    hits, wanted = found_windows(streams, secrets)
    expect(hits == wanted, "the scanner found %d of %d windows of a plain-text replay" % (hits, wanted))


@own_network()
def nothing_of_a_text_is_readable_on_the_wire(place):
    """Lines of text at a home that lends nothing, and the vectors made of them elsewhere."""
    home = place.found()
    place.join(home, "berlin")
    home.wait_states({"berlin": "up"})
    home.stop()
    home.settings["work.cpu_slots"] = 0
    home.start().wait_states({"berlin": "up"}, 60)
    markers = [os.urandom(MARKER_BYTES // 2).hex().encode() for _ in range(MARKERS)]
    text = b"".join(b"line %d says %s to whom it concerns\n" % (i, marker) for i, marker in enumerate(markers))
    lines, vectors = place.path("lines.txt"), place.path("vectors.npy")
    with open(lines, "wb") as out:
        out.write(text)
    with Capture() as capture:
        done = home.submit("embed", "--input", "text=" + lines, "--split", "text", "--cache", "off", "--output",
                           "vectors=" + vectors, "--json").json
    expect([row["name"] for row in done["by_node"]] == ["berlin"], "not all ran elsewhere: %s" % done["by_node"])
    expect(capture.dropped == 0, "%d packets were missed" % capture.dropped)
    expect(capture.bytes_seen() > len(text), "only %d bytes were seen" % capture.bytes_seen())
    streams, secrets = capture.streams(), [text, numpy.load(vectors).tobytes()]
    expect(found_markers(streams, markers) == 0, "%d markers were on the wire" % found_markers(streams, markers))
    hits, wanted = found_windows(streams, secrets)
    expect(hits == 0, "%d of %d windows were on the wire" % (hits, wanted))
    with Capture() as plain:
        replay(text)
    streams = plain.streams()
    expect(found_markers(streams, markers) == MARKERS, "the scanner is blind to text")


TESTS = [nothing_of_a_job_is_readable_on_the_wire, nothing_of_a_text_is_readable_on_the_wire]
# What others do on the machine would be measured, captured or starved too.
ALONE = TESTS
