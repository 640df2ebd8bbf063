"""What an eavesdropper on the wire gets of a job: nothing of its input or output.

All loopback traffic is captured while a job runs at another site, and searched for planted markers and for every 32
bytes of the input and of the output at any offset. That the search can find is shown by a replay in plain text over the
same interface, through the same capture.
"""
import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import threading
import time

import numpy

from harness import Skipped, expect

MARKERS = 500
MARKER_BYTES = 16
WINDOW_BYTES = 32
ROW_BYTES = 256
ROWS = 3000
EVERY_PROTOCOL = 3  # ETH_P_ALL
LAST_FRAMES_S = 0.5
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
libc = ctypes.CDLL(None, use_errno=True)
HASH_FACTOR = numpy.uint64(0x9E3779B97F4A7C15)


@contextlib.contextmanager
def own_network():
    """A loopback interface of this test's own, where that may be had: nothing else is in the capture then."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(CLONE_NEWNET) == 0:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP))
        yield
    finally:
        libc.setns(before, CLONE_NEWNET)
        os.close(before)


def packet_socket():
    try:
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERY_PROTOCOL))
    except PermissionError as error:
        raise Skipped("capturing needs the right to open a packet socket (run as root): %s" % error) from None


class Capture:
    """Every frame on the loopback interface from entry to exit, in order, as one string of bytes."""

    def __enter__(self):
        self.socket = packet_socket()
        self.socket.setsockopt(socket.SOL_SOCKET, 33, 256 << 20)  # SO_RCVBUFFORCE
        self.socket.bind(("lo", 0))
        self.socket.settimeout(0.1)
        self.frames = []
        self.end_at = float("inf")
        self.thread = threading.Thread(target=self.read)
        self.thread.start()
        return self

    def read(self):
        while time.monotonic() < self.end_at:
            try:
                frame, address = self.socket.recvfrom(1 << 17)
            except socket.timeout:
                continue
            if address[2] != socket.PACKET_OUTGOING:  # the loopback shows each frame twice
                self.frames.append(frame)

    def __exit__(self, *_):
        self.end_at = time.monotonic() + LAST_FRAMES_S
        self.thread.join()
        statistics = self.socket.getsockopt(263, 6, 8)  # SOL_PACKET, PACKET_STATISTICS
        self.dropped = int.from_bytes(statistics[4:8], "little")
        self.socket.close()

    @property
    def payload(self):
        """The frames' TCP payloads one behind the other, so that what spans two frames of a stream is whole."""
        streams = {}
        for frame in self.frames:
            if frame[12:14] != b"\x08\x00" or frame[23] != 6:
                continue
            ip = 14 + (frame[14] & 15) * 4
            body = ip + (frame[ip + 12] >> 4) * 4
            end = 14 + int.from_bytes(frame[16:18], "big")
            streams.setdefault(frame[26:34] + frame[ip:ip + 4], []).append(frame[body:end])
        return b"".join(b"".join(parts) + bytes(WINDOW_BYTES) for parts in streams.values())


def windows(data):
    """A 64-bit hash of the WINDOW_BYTES bytes at each offset of `data`."""
    padded = numpy.frombuffer(data + bytes(8), numpy.uint8)
    words = numpy.zeros(len(data), numpy.uint64)
    for i in range(8):
        words |= padded[i:i + len(data)].astype(numpy.uint64) << numpy.uint64(8 * i)
    count = max(0, len(data) - WINDOW_BYTES + 1)
    result = numpy.zeros(count, numpy.uint64)
    with numpy.errstate(over="ignore"):
        for at in range(0, WINDOW_BYTES, 8):
            result = (result ^ words[at:at + count]) * HASH_FACTOR
            result ^= result >> numpy.uint64(29)
    return result


def telling_windows(data):
    """Hashes of the windows of `data` that are not one byte repeated."""
    bytes_ = numpy.frombuffer(data, numpy.uint8)
    change = numpy.concatenate(([0], numpy.cumsum(bytes_[1:] != bytes_[:-1])))
    count = max(0, len(data) - WINDOW_BYTES + 1)
    varied = change[WINDOW_BYTES - 1:WINDOW_BYTES - 1 + count] > change[:count]
    return numpy.unique(windows(data)[varied])


def find_windows(haystack, data):
    """Offsets in `haystack` of telling windows of `data`, by their hashes: a chance hit is one in 10^7 runs."""
    known = telling_windows(data)
    hashes = windows(haystack)
    place = numpy.minimum(numpy.searchsorted(known, hashes), len(known) - 1)
    return numpy.flatnonzero(known[place] == hashes)


def find_markers(haystack, markers):
    return [marker for marker in markers if marker in haystack]


def input_with_markers(seed):
    random = numpy.random.default_rng(seed)
    rows = random.integers(0, 256, (ROWS, ROW_BYTES), dtype=numpy.uint8)
    markers = []
    for row in random.choice(ROWS, MARKERS, replace=False):
        marker = os.urandom(MARKER_BYTES)
        at = int(random.integers(0, ROW_BYTES - MARKER_BYTES))
        rows[row, at:at + MARKER_BYTES] = numpy.frombuffer(marker, numpy.uint8)
        markers.append(marker)
    return rows.view(numpy.int8), markers


def replay(data):
    """Sends `data` in plain text over a loopback connection."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        sink = threading.Thread(target=lambda: drink(listening))
        sink.start()
        with socket.create_connection(listening.getsockname()) as wire:
            wire.sendall(data)
        sink.join()


def drink(listening):
    wire, _ = listening.accept()
    with wire:
        while wire.recv(1 << 16):
            pass


def home_that_lends_nothing(place):
    """A mesh in which all work of the home is done at the other site."""
    home = place.found()
    executor = place.join(home, "berlin")
    home.stop()
    home.settings["work.cpu_slots"] = 0
    home.start()
    for node in (home, executor):
        node.wait_states({"ashburn": "up", "berlin": "up"}, 60)
    return home, executor


def check_captured(capture, secrets, markers):
    expect(capture.dropped == 0, "the capture lost %d frames: it proves nothing" % capture.dropped)
    seen = capture.payload
    plain = sum(len(secret) for secret in secrets)
    expect(len(seen) > plain // 2, "only %d bytes were captured of a job that moves %d" % (len(seen), plain))
    found = find_markers(seen, markers)
    expect(not found, "%d of %d markers went over the wire" % (len(found), len(markers)))
    for secret in secrets:
        hits = find_windows(seen, secret)
        expect(len(hits) == 0, "%d windows of the input or output went over the wire" % len(hits))


def check_scanner(secret, markers):
    with Capture() as capture:
        replay(secret)
    seen = capture.payload
    expect(len(find_markers(seen, markers)) == len(markers), "the scanner finds %d of %d markers in plain text"
           % (len(find_markers(seen, markers)), len(markers)))
    windows_sent = len(secret) - WINDOW_BYTES + 1
    found = len(find_windows(seen, secret))
    expect(found >= windows_sent * 0.99, "the scanner finds %d of %d windows in plain text" % (found, windows_sent))


@own_network()
def nothing_of_a_job_can_be_read_on_the_wire(place):
    """Rows, broadcast and result of a search, all moved between two sites."""
    rows, markers = input_with_markers(11)
    base, query, index = place.path("base.npy"), place.path("query.npy"), place.path("index.npy")
    numpy.save(base, rows)
    numpy.save(query, rows[::3])
    packet_socket().close()  # where nothing can be captured is known before the work
    home, executor = home_that_lends_nothing(place)
    with Capture() as capture:
        done = home.submit("knn", "--input", "base=" + base, "--input", "query=" + query, "--split", "query", "--param",
                           "k=8", "--cache", "off", "--output", "index=" + index, "--json", timeout_s=90).json
    expect([row["name"] for row in done["by_node"]] == [executor.name], "the work was not remote: %s" % done["by_node"])
    found = numpy.load(index)
    expect(numpy.array_equal(found[:, 0], numpy.arange(ROWS)[::3]), "the job's result is wrong")
    # An index is mostly zero bytes: what is searched for are its windows that tell anything, as with the rows.
    check_captured(capture, [rows.tobytes(), found.tobytes()], markers)
    check_scanner(rows.tobytes(), markers)


@own_network()
def nothing_of_a_text_can_be_read_on_the_wire(place):
    """Lines of text, and the vectors made of them."""
    markers = [os.urandom(MARKER_BYTES // 2).hex().encode() for _ in range(MARKERS)]
    text = b"".join(b"line %d says %s to whom it concerns\n" % (i, marker) for i, marker in enumerate(markers))
    path, vectors = place.path("lines.txt"), place.path("vectors.npy")
    with open(path, "wb") as out:
        out.write(text)
    packet_socket().close()  # where nothing can be captured is known before the work
    home, executor = home_that_lends_nothing(place)
    with Capture() as capture:
        done = home.submit("embed", "--input", "text=" + path, "--split", "text", "--cache", "off", "--output",
                           "vectors=" + vectors, "--json", timeout_s=90).json
    expect([row["name"] for row in done["by_node"]] == [executor.name], "the work was not remote: %s" % done["by_node"])
    check_captured(capture, [text, numpy.load(vectors).tobytes()], markers)
    check_scanner(text, markers)


TESTS = [nothing_of_a_job_can_be_read_on_the_wire, nothing_of_a_text_can_be_read_on_the_wire]
# What others do on the machine would be measured, captured or starved too.
ALONE = [nothing_of_a_job_is_readable_on_the_wire]
