"""People who submit work from every site while it goes wrong around them.

Each has jobs of known kernels on random input, whose results are worked out here with NumPy alone; no code of the node or
of its kernels is used. What a client was told, and when, is kept: the claims of check.py are about that.

A client behaves as its manual says. All are the same tenant. A submit whose answer did not come is repeated under the same key, at
whatever site answers, and every fourth that was acknowledged is repeated somewhere at the end: it must be the same job. A job that
was acknowledged is waited for, at one site after the other, until some site hands out its results.
"""
import collections
import json
import os
import re
import subprocess
import tempfile
import threading
import time

import numpy

from harness import die_with_parent

ATTEMPT_S = 20  # a command that has not ended by then is given up, as an impatient person does


def fnv1a(rows):
    """64-bit FNV-1a of each row: the kernel `noop`."""
    sums = numpy.full(len(rows), 0xCBF29CE484222325, dtype=numpy.uint64)
    for column in range(rows.shape[1]):
        sums = (sums ^ rows[:, column]) * numpy.uint64(0x100000001B3)
    return sums


def spin_marks(items):
    return ((numpy.arange(items, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)) >> numpy.uint64(32)).astype(
        numpy.uint32)


def nearest(base, query, k):
    """Row numbers of the k nearest of `base` by squared L2, ties by the lower number: the kernel `knn`."""
    base, query = base.astype(numpy.int64), query.astype(numpy.int64)
    distance = (query ** 2).sum(1)[:, None] - 2 * query @ base.T + (base ** 2).sum(1)[None, :]
    return numpy.argsort(distance, axis=1, kind="stable")[:, :k].astype(numpy.int32)


class Job:
    """What a client wants done, and what it has been told about it."""

    def __init__(self, folder, rng, number, site, replicas, like=None):
        """`like`: an earlier job, to be asked for once more under a key of its own."""
        self.number, self.site = number, site
        self.key = "job %d of seed %d" % (number, rng.seed_shown)
        self.folder = os.path.join(folder, "job%d" % number)
        os.makedirs(self.folder)
        if like is None:
            self.arguments, self.output, self.expected, self.shards = self.make(rng)
            self.replicas = rng.choice((3, 3, 3, 5)) if replicas is None else replicas
        else:
            self.arguments, self.output, self.expected, self.shards = like.arguments, like.output, like.expected, like.shards
            self.replicas = None  # as most people submit: as many copies as there are nodes for
        self.at_once = False  # its outputs were in the cache
        self.submits = 0
        self.id = None  # once acknowledged
        self.names = set()  # all ids that it was acknowledged under: one, however often it was submitted
        self.home = None  # the site that acknowledged it
        self.acked_at = self.done_at = None
        self.acked_wall = None  # the same by the wall clock, as the nodes' logs have it
        self.done_by = None  # the site that handed out its results
        self.result = None  # "right" or "wrong"
        self.said = []  # (seconds, site, exit code, last line)

    def save(self, name, array):
        path = os.path.join(self.folder, name + ".npy")
        numpy.save(path, array)
        return path

    def make(self, rng):
        draw = numpy.random.default_rng(rng.getrandbits(64))
        kind = rng.choice(("spin", "spin", "noop", "knn", "matmul", "large"))
        if kind == "spin":
            items = rng.randint(1, 60)
            return (["spin", "--items", str(items), "--shard-items", "1", "--param", "us=%d" % rng.choice((1000, 20000, 150000)),
                     "--cache", "off"], "mark", spin_marks(items), items)
        if kind == "noop":
            rows = draw.integers(0, 256, (rng.randint(1, 2000), rng.randint(1, 300)), dtype=numpy.uint8)
            part = rng.randint(1, 50)
            return (["noop", "--input", "data=" + self.save("data", rows), "--split", "data", "--shard-items", str(part)],
                    "sum", fnv1a(rows), -(-len(rows) // part))
        if kind == "large":  # results above 16 KiB travel and are kept as blobs
            rows = draw.integers(0, 256, (rng.randint(10000, 40000), 8), dtype=numpy.uint8)
            part = rng.randint(3000, 9000)
            return (["noop", "--input", "data=" + self.save("data", rows), "--split", "data", "--shard-items", str(part)],
                    "sum", fnv1a(rows), -(-len(rows) // part))
        if kind == "knn":
            base = draw.integers(-128, 128, (rng.randint(5, 800), 32), dtype=numpy.int8)
            query = draw.integers(-128, 128, (rng.randint(1, 200), 32), dtype=numpy.int8)
            part = rng.randint(5, 60)
            return (["knn", "--input", "base=" + self.save("base", base), "--input", "query=" + self.save("query", query),
                     "--split", "query", "--param", "k=5", "--shard-items", str(part)], "index", nearest(base, query, 5),
                    -(-len(query) // part))
        a = draw.integers(-128, 128, (rng.randint(1, 120), 64), dtype=numpy.int8)
        b = draw.integers(-128, 128, (64, rng.randint(1, 64)), dtype=numpy.int8)
        part = rng.randint(4, 40)
        return (["matmul", "--input", "a=" + self.save("a", a), "--input", "b=" + self.save("b", b), "--split", "a",
                 "--shard-items", str(part)], "c", a.astype(numpy.int32) @ b.astype(numpy.int32), -(-len(a) // part))

    def compare(self, path):
        with open(path, "rb") as file:
            got = numpy.load(file)
        same = got.dtype == self.expected.dtype and numpy.array_equal(got.reshape(self.expected.shape), self.expected)
        self.result = "right" if same else "wrong"


class Client:
    """One person at one site: submits, waits a while, goes on to the next."""

    def __init__(self, folder, rng, sites, site, numbers, began, program, replicas):
        self.folder, self.rng, self.sites, self.site = folder, rng, sites, site
        self.numbers, self.began, self.program, self.replicas = numbers, began, program, replicas
        self.jobs = []
        self.refusals = collections.Counter()  # (exit code, last line) of submits that were not acknowledged

    def weir(self, site, *arguments, timeout_s=ATTEMPT_S):
        """Exit code, output and the last line of what was said; code None: given up."""
        command = [self.program, arguments[0], "--node", site.socket, *arguments[1:]]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL,
                                  preexec_fn=die_with_parent, env={**os.environ, "NO_COLOR": "1"}, errors="replace")
        except subprocess.TimeoutExpired:
            return None, "", "no answer in %d s" % timeout_s
        return done.returncode, done.stdout, (done.stderr.strip().split("\n") or [""])[-1]

    def note(self, job, site, code, line):
        job.said.append((round(time.monotonic() - self.began, 3), site.name, code, line))

    def submit(self, job, site):
        """True once it is settled: acknowledged, or refused for good."""
        job.submits += job.id is None
        insists = () if job.replicas is None else ("--replicas", str(job.replicas))
        code, out, line = self.weir(site, "submit", *job.arguments, "--key", job.key, *insists, "--detach", "--json")
        self.note(job, site, code, line)
        if code != 0:
            self.refusals[code, re.sub(r"\b[0-9a-f]{8,64}\b|\b\d+\b|/tmp/\S+", "*", line)] += 1
            return False
        answer = json.loads(out)
        job.names.add(answer["job"])
        if job.id is None and answer["replicas"] == 1:  # which it says: lost with one folder, so nothing is claimed of it
            self.refusals[code, "kept by its home alone"] += 1
            return False
        if job.id is None:
            job.at_once = answer["state"] == "done" and not answer["existing"]
            job.id = next(iter(job.names))
            job.home, job.acked_at, job.acked_wall = site.name, time.monotonic() - self.began, time.time()
        return True

    def collect(self, job, site, timeout_s=ATTEMPT_S):
        """True once the job's results are here."""
        path = os.path.join(job.folder, "result.npy")
        with tempfile.TemporaryDirectory(dir=job.folder) as scratch:
            part = os.path.join(scratch, "part.npy")
            code, _, line = self.weir(site, "submit", "--reattach", job.id, "--output", "%s=%s" % (job.output, part),
                                      timeout_s=timeout_s)
            self.note(job, site, code, line)
            if code != 0:
                return False
            os.replace(part, path)
        job.compare(path)
        job.done_by, job.done_at = site.name, time.monotonic() - self.began
        return True

    def run(self, until):
        while time.monotonic() < until:
            before = [job for job in self.jobs if job.result == "right" and job.arguments[0] != "spin"]
            like = self.rng.choice(before) if before and self.rng.random() < 0.3 else None
            job = Job(self.folder, self.rng, self.numbers(), self.site, self.replicas, like)
            self.jobs.append(job)
            site = self.site
            for _ in range(4):  # nobody is more patient than that while the mesh is on fire
                if self.submit(job, site) or time.monotonic() > until:
                    break
                time.sleep(self.rng.uniform(0.1, 1))
                site = self.rng.choice(self.sites)
            if job.id is not None and self.rng.random() < 0.7:
                self.collect(job, self.rng.choice(self.sites), timeout_s=self.rng.uniform(1, ATTEMPT_S))
            time.sleep(self.rng.expovariate(2))

    def finish(self, until):
        """When all is well again: every acknowledged job is waited for, and tried at every site in turn."""
        for job in self.jobs[::4]:
            while job.id is not None and time.monotonic() < until and not self.submit(job, self.rng.choice(self.sites)):
                time.sleep(0.2)
        waiting = [job for job in self.jobs if job.id is not None and job.result is None]
        while waiting and time.monotonic() < until:
            job = waiting.pop(0)
            site = self.rng.choice(self.sites)
            if not self.collect(job, site, timeout_s=min(ATTEMPT_S, max(1, until - time.monotonic()))):
                waiting.append(job)
                time.sleep(0.2)


class Numbers:
    def __init__(self):
        self.lock, self.last = threading.Lock(), 0

    def __call__(self):
        with self.lock:
            self.last += 1
            return self.last
