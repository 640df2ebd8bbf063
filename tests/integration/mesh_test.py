"""The mesh as people use it: joining, seeing, working, dying, coming back."""
import http.client
import os
import re
import signal
import subprocess
import time

import numpy

from harness import PATIENCE, Node, Skipped, expect, wait_until

THREE = ("ashburn", "berlin", "cairo")
# 60 shards of some 50 ms: long enough to be interrupted, short enough for a test.
SPIN = ("--items", "60", "--shard-items", "1", "--param", "us=50000", "--cache", "off")
SPIN_ITEMS = 60


def spin_marks(items):
    """What spin gives: see kernels/spin.c."""
    index = numpy.arange(items, dtype=numpy.uint64)
    with numpy.errstate(over="ignore"):
        return ((index * numpy.uint64(0x9E3779B97F4A7C15)) >> numpy.uint64(32)).astype(numpy.uint32)


def fetch(node, job, path, output="mark"):
    node.weir("submit", "--reattach", job, "--output", "%s=%s" % (output, path), timeout_s=90)
    return numpy.load(path)


def expect_marks(node, job, items=SPIN_ITEMS):
    got = fetch(node, job, node.place.path("marks.npy"))
    expect(numpy.array_equal(got.reshape(-1), spin_marks(items)), "the job's bytes are wrong: %r" % got[:8])


def wait_running(home, executor, job):
    """Until shards of the job have been done by the executor and some are left."""
    def mid_job():
        now = home.job(job)
        expect(now["state"] in ("preparing", "running"), "the job ended too early to be interrupted: %s" % now)
        return any(row["name"] == executor.name and row["shards"] > 0 for row in now.get("by_node", []))
    wait_until(lambda: "%s has run a shard of %s: %s" % (executor.name, job[:8], home.job(job)), mid_job, 30)


def three_nodes(place):
    """Joined, working on one job together, giving the right bytes, and stopping cleanly."""
    mesh = place.mesh(*THREE)
    home = mesh["ashburn"]
    job = home.submit_detached("spin", *SPIN)
    done = home.wait_job(job, timeout_s=90)
    expect(done["shards"] == SPIN_ITEMS and done["done"] == SPIN_ITEMS, "shards are missing: %s" % done)
    ran = {row["name"] for row in done["by_node"] if row["shards"] > 0}
    expect(len(ran) > 1, "only %s ran shards" % ran)
    expect_marks(home, job)
    for node in mesh.values():
        expect(node.stop() == 0, "%s ended with %s:\n%s" % (node.name, node.process.returncode, node.log_end()))


def a_killed_node_is_seen_down_and_up_again(place):
    mesh = place.mesh(*THREE)
    mesh["berlin"].kill()
    for name in ("ashburn", "cairo"):
        mesh[name].wait_states({"berlin": "down"}, 15)
    mesh["berlin"].start()
    for node in mesh.values():
        node.wait_states({name: "up" for name in THREE}, 45)


def a_stopped_node_is_seen_down_and_up_again(place):
    mesh = place.mesh(*THREE)
    mesh["berlin"].signal(signal.SIGSTOP)
    for name in ("ashburn", "cairo"):
        mesh[name].wait_states({"berlin": "down"}, 30)
    mesh["berlin"].signal(signal.SIGCONT)
    for node in mesh.values():
        node.wait_states({name: "up" for name in THREE}, 60)


def a_drained_node_leaves(place):
    mesh = place.mesh(*THREE)
    mesh["berlin"].weir("drain", timeout_s=60)
    expect(mesh["berlin"].wait_end() == 0, "drain ended with %s" % mesh["berlin"].process.returncode)
    for name in ("ashburn", "cairo"):
        mesh[name].wait_states({"berlin": "left"})


def a_drain_lets_running_work_finish(place):
    mesh = place.mesh(*THREE)
    home = mesh["ashburn"]
    job = home.submit_detached("spin", *SPIN)
    wait_running(home, mesh["berlin"], job)
    mesh["berlin"].weir("drain", timeout_s=60)
    done = home.wait_job(job, timeout_s=90)
    expect(done["done"] == SPIN_ITEMS, "%s" % done)
    expect_marks(home, job)


def a_home_killed_mid_job_continues_it(place):
    """A job of a single copy waits for its home. Those of several are in takeover_test.py."""
    mesh = place.mesh(*THREE)
    home = mesh["ashburn"]
    job = home.submit_detached("spin", *SPIN, "--replicas", "1")
    wait_running(home, mesh["berlin"], job)
    home.kill()
    home.start()
    done = home.wait_job(job, timeout_s=120)
    expect(done["done"] == SPIN_ITEMS, "%s" % done)
    expect_marks(home, job)


def an_executor_killed_mid_job_costs_only_time(place):
    mesh = place.mesh(*THREE)
    home = mesh["ashburn"]
    job = home.submit_detached("spin", *SPIN)
    wait_running(home, mesh["berlin"], job)
    mesh["berlin"].kill()
    done = home.wait_job(job, timeout_s=120)
    expect(done["done"] == SPIN_ITEMS, "%s" % done)
    expect_marks(home, job)


def a_killed_worker_costs_one_attempt(place):
    node = place.mesh("ashburn", work__cpu_slots=1)["ashburn"]
    job = node.submit_detached("spin", "--items", "8", "--shard-items", "1", "--param", "us=300000", "--cache", "off")
    wait_until("a shard is done", lambda: node.job(job)["done"] > 0)
    worker = wait_until("a worker runs", lambda: node.children("weir-worker"))[0]
    os.kill(worker, signal.SIGKILL)
    done = node.wait_job(job)
    expect(done["reassigned"] >= 1, "the lost attempt is not counted: %s" % done)
    expect_marks(node, job, 8)
    expect(worker not in node.children("weir-worker"), "the killed worker is still listed")


def a_hung_worker_is_killed(place):
    node = place.mesh("ashburn", work__cpu_slots=1, work__hang="2s")["ashburn"]
    job = node.submit_detached("spin", "--items", "8", "--shard-items", "1", "--param", "us=300000", "--cache", "off")
    wait_until("a shard is done", lambda: node.job(job)["done"] > 0)
    worker = wait_until("a worker runs", lambda: node.children("weir-worker"))[0]
    os.kill(worker, signal.SIGSTOP)
    node.wait_job(job)
    expect_marks(node, job, 8)
    wait_until("the stopped worker is gone", lambda: worker not in node.children("weir-worker"))


def a_worker_that_stands_still_does_not_hold_its_job(place):
    """Its node lives and renews its leases, and no watchdog would bite for a minute: the shard is given to another too."""
    mesh = place.mesh(*THREE, work__hang="60s")
    home = mesh["ashburn"]
    first = home.submit_detached("spin", *SPIN)
    home.wait_job(first, timeout_s=90)  # what a shard takes is known now
    job = home.submit_detached("spin", *SPIN)
    wait_running(home, mesh["berlin"], job)
    for worker in mesh["berlin"].children("weir-worker"):
        os.kill(worker, signal.SIGSTOP)
    started = time.monotonic()
    done = home.wait_job(job, timeout_s=90)
    took_s = time.monotonic() - started
    expect(done["done"] == SPIN_ITEMS and done["reassigned"] == 0, "%s" % done)
    expect(took_s < 20, "the job took %.1f s after a worker stood still" % took_s)
    story = home.weir("explain", job, "--json").json
    words = {row["why"] for row in story["decisions"] if row["name"] == "berlin"}
    expect("overtaken" in words, "no word of the attempt that was overtaken: %s" % words)
    expect(any(row["why"] == "speculated" for row in story["decisions"]), "no word of a second attempt")
    expect_marks(home, job)


def a_cancelled_job_stops_everywhere(place):
    mesh = place.mesh("ashburn", "berlin")
    home = mesh["ashburn"]
    job = home.submit_detached("spin", "--items", "500", "--shard-items", "1", "--param", "us=50000", "--cache", "off")
    wait_running(home, mesh["berlin"], job)
    home.weir("cancel", job)
    home.wait_job(job, "cancelled")

    def all_free():
        return all(row["free"] == row["slots"] and row["queue"] == 0 for row in home.nodes().values())
    wait_until(lambda: "every slot is free again: %s" % home.nodes(), all_free)


def two_homes_share_the_mesh(place):
    mesh = place.mesh(*THREE)
    jobs = [(mesh[name], mesh[name].submit_detached("spin", *SPIN)) for name in ("ashburn", "berlin")]
    for home, job in jobs:
        home.wait_job(job, timeout_s=120)
        expect_marks(home, job)


def thousands_of_short_shards_cost_no_worker(place):
    """A worker must not look into a bundle's memory after its last report: the next bundle may be there already."""
    mesh = place.mesh(*THREE)
    job = mesh["ashburn"].submit_detached("spin", "--items", "4000", "--shard-items", "1", "--param", "us=500",
                                          "--cache", "off")
    done = mesh["ashburn"].wait_job(job, timeout_s=120)
    expect(done["done"] == 4000 and done["reassigned"] == 0, "%s" % done)


def another_site_finds_cached_results(place):
    mesh = place.mesh(*THREE)
    words = place.path("words.txt")
    with open(words, "w", encoding="ascii") as out:
        out.write("".join("word%d\n" % i for i in range(20000)))
    submit = ("embed", "--input", "text=" + words, "--split", "text", "--shard-items", "2000")
    first = place.path("first.npy")
    second = place.path("second.npy")
    mesh["ashburn"].submit(*submit, "--output", "vectors=" + first)

    def from_cache():
        job = mesh["cairo"].submit_detached(*submit)
        done = mesh["cairo"].wait_job(job)
        fetch(mesh["cairo"], job, second, "vectors")
        with open(first, "rb") as one, open(second, "rb") as two:
            expect(one.read() == two.read(), "another site's result differs")
        return done
    done = from_cache()
    expect(done["cached"] == done["shards"] and done["shards"] == 10, "not all came from the cache: %s" % done)


def a_repeated_key_finds_the_same_job(place):
    node = place.mesh("ashburn")["ashburn"]
    first = node.submit_detached("spin", "--items", "4", "--key", "monday")
    second = node.submit_detached("spin", "--items", "4", "--key", "monday")
    expect(first == second, "%s is not %s" % (first, second))


def large_outputs_travel_whole(place):
    """Blobs over a chunk, moved by bulk both ways, against NumPy."""
    mesh = place.mesh("ashburn", "berlin", work__cpu_slots=1)
    random = numpy.random.default_rng(7)
    a = random.integers(-128, 128, (3000, 512), dtype=numpy.int8)
    b = random.integers(-128, 128, (512, 900), dtype=numpy.int8)
    for name, array in (("a", a), ("b", b)):
        numpy.save(place.path(name + ".npy"), array)
    out = place.path("c.npy")
    mesh["ashburn"].submit("matmul", "--input", "a=" + place.path("a.npy"), "--split", "a", "--input",
                           "b=" + place.path("b.npy"), "--output", "c=" + out, "--shard-items", "300", timeout_s=120)
    expect(numpy.array_equal(numpy.load(out), a.astype(numpy.int32) @ b.astype(numpy.int32)), "the product is wrong")


def tree_sum(values):
    """Pairs of neighbours, then pairs of pairs: the order that the documents promise."""
    values = numpy.array(values, numpy.float64)
    while len(values) > 1:
        pairs = values[:len(values) // 2 * 2]
        values = numpy.concatenate([pairs[0::2] + pairs[1::2], values[len(pairs):]])
    return values[0]


def reduced_outputs_are_the_shards_in_one_order(place):
    """A sum and a maximum over shards of several nodes, bit for bit, however often and from where they are asked for,
    and with the home killed in the middle."""
    mesh = place.mesh(*THREE, work__cpu_slots=1)
    options = numpy.random.default_rng(11).uniform([50, 50, 0.0, 0.1, 0.2], [150, 150, 0.05, 0.6, 3], (301, 5))
    numpy.save(place.path("book.npy"), options)

    def value(node, *arguments, outputs=("price", "error", "total", "worst")):
        targets = [word for name in outputs for word in ("--output", "%s=%s" % (name, place.path(name + ".npy")))]
        job = node.submit("montecarlo", "--input", "option=" + place.path("book.npy"), "--param", "book=yes", "--param",
                          "paths=4096", "--json", *targets, *arguments, timeout_s=120).json
        return job, [numpy.load(place.path(name + ".npy")) for name in outputs]

    job, (price, error, total, worst) = value(mesh["ashburn"], "--shard-items", "4")
    expect(len([row for row in job["by_node"] if row["shards"] > 0]) > 1, "one node ran it all: %s" % job["by_node"])
    expect(total.shape == worst.shape == (1,) and total.dtype == worst.dtype == numpy.float64, "%r %r" % (total, worst))
    expect(price.shape == (301,) and abs(total[0] - price.sum()) < 1e-9 * total[0], "%r is not %r" % (total, price.sum()))
    expect(total[0] == tree_sum(price), "not in the order promised: %r, %r" % (total[0], tree_sum(price)))
    expect(worst[0] == error.max(), "%r is not %r" % (worst, error.max()))
    bytes_of = total.tobytes() + worst.tobytes()
    for site, arguments in (("berlin", ("--shard-items", "4")), ("cairo", ("--shard-items", "1")),
                            ("cairo", ("--cache", "off"))):
        _, again = value(mesh[site], *arguments, outputs=("total", "worst"))
        expect(again[0].tobytes() + again[1].tobytes() == bytes_of, "at %s with %s: %r" % (site, arguments, again))
    _, (odd,) = value(mesh["ashburn"], "--shard-items", "7", outputs=("total",))
    parts = [tree_sum(price[first:first + 7]) for first in range(0, 301, 7)]
    expect(odd[0] == tree_sum(parts), "shards of seven: %r, %r" % (odd[0], tree_sum(parts)))
    home = mesh["berlin"]
    late = home.submit_detached("montecarlo", "--input", "option=" + place.path("book.npy"), "--param", "book=yes",
                                "--param", "paths=65536", "--param", "style=asian", "--shard-items", "4", "--cache", "off")
    wait_until("some shards are done", lambda: home.job(late)["done"] > 3, 60)
    home.kill()
    home.start()
    home.wait_job(late, timeout_s=120)
    prices = fetch(home, late, place.path("late.npy"), "price")
    expect(fetch(home, late, place.path("late_total.npy"), "total")[0] == tree_sum(prices), "after the home's restart")
    refused = mesh["ashburn"].submit("montecarlo", "--input", "option=" + place.path("book.npy"), "--output",
                                     "total=" + place.path("x.npy"), code=2)
    expect("book=yes" in refused.error, "%s" % refused)


def small_disk(place, name, size):
    """A folder on a file system of that size, for a node's data."""
    data = place.path(name)
    os.mkdir(data, 0o700)
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%s,mode=0700" % size, "tmpfs", data],
                                          capture_output=True, check=False).returncode != 0:
        raise Skipped("a small file system can't be mounted here")
    place.mounts.append(data)


def resize_disk(place, name, size):
    subprocess.run(["mount", "-o", "remount,size=" + size, place.path(name)], check=True)


def fill_disk(place, name, left_bytes):
    """Leaves only so much; returns the file that takes the rest."""
    room = os.statvfs(place.path(name))
    ballast = place.path(name, "ballast")
    with open(ballast, "wb") as out:
        os.posix_fallocate(out.fileno(), 0, room.f_bavail * room.f_frsize - left_bytes)
    return ballast


def get(node, path):
    """What the node's HTTP side answers: status and text."""
    connection = http.client.HTTPConnection("127.0.0.1", node.status()["http"], timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def metric(node, name):
    return next(float(line.split()[1]) for line in get(node, "/metrics")[1].splitlines() if line.startswith(name + " "))


def save_words(place, count):
    path = place.path("words.txt")
    with open(path, "w", encoding="ascii") as out:
        out.writelines("word%d\n" % i for i in range(count))
    return path


def a_home_that_starts_without_room_keeps_its_jobs(place):
    small_disk(place, "ashburn", "64m")
    home = place.mesh("ashburn", work__cpu_slots=0)["ashburn"]
    rows = numpy.arange(200000 * 8, dtype=numpy.uint64).astype(numpy.uint8).reshape(-1, 8)
    numpy.save(place.path("rows.npy"), rows)
    wait, give_up = (home.submit_detached("noop", "--input", "data=" + place.path("rows.npy"), "--split", "data",
                                          "--replicas", "1", "--cache", "off", "--key", key) for key in ("wait", "give up"))
    home.kill()
    ballast = fill_disk(place, "ashburn", 900000)  # room for a start, not for 1.6 MB of output
    home.settings["work.cpu_slots"] = 1
    home.start()
    wait_until("the home says that it can't go on", lambda: "it is tried again" in home.log_text())
    expect(home.job(wait)["state"] == "preparing", "%s" % home.job(wait))
    home.weir("cancel", give_up)
    home.wait_job(give_up, "cancelled")
    os.unlink(ballast)
    home.wait_job(wait)
    sums = numpy.full(len(rows), 0xCBF29CE484222325, dtype=numpy.uint64)
    for column in range(8):
        sums = (sums ^ rows[:, column]) * numpy.uint64(0x100000001B3)
    expect(numpy.array_equal(fetch(home, wait, place.path("sums.npy"), "sum").reshape(-1), sums), "the sums are wrong")


def an_executor_without_room_fails_nobody(place):
    """Berlin can't keep what its shards put out: they run at home, berlin lends nothing and says why, until it has room."""
    small_disk(place, "berlin", "24m")
    mesh = place.mesh("ashburn", "berlin")
    home, full = mesh["ashburn"], mesh["berlin"]
    ballast = fill_disk(place, "berlin", 0)
    words = save_words(place, 16384)
    for round in range(5):
        done = home.submit("embed", "--input", "text=" + words, "--shard-items", "512", "--cache", "off", "--replicas", "1",
                           "--json").json
        expect(done["state"] == "done", "round %d: %s" % (round, done))
        if full.nodes()["berlin"]["fault"]:
            break
    wait_until("berlin knows", lambda: full.nodes()["berlin"]["fault"] == "disk")
    wait_until("ashburn hears of it", lambda: home.nodes()["berlin"]["fault"] == "disk")
    for node in (home, full):
        table = node.weir("nodes").out
        expect(re.search(r"berlin\*? +berlin +fault .*disk full", table.splitlines()[1]), table)
    expect(re.search("level=error at=berlin event=disk state=full data=%s" % re.escape(full.data), full.log_text()), full.log_end())
    expect(metric(full, "weir_disk_trouble") == 1 and metric(home, "weir_disk_trouble") == 0, "the metrics")
    expect(get(full, "/readyz")[0] == 503, "berlin says that it takes work")
    os.unlink(ballast)
    wait_until("berlin lends again", lambda: not home.nodes()["berlin"]["fault"] and home.nodes()["berlin"]["slots"] == 2, 30)
    expect(get(full, "/readyz")[0] == 200, "berlin says that it takes no work")


def outputs_without_room_at_home_are_told_and_stored_later(place):
    """All shards are done and their outputs do not fit the disk: submit, jobs, explain and nodes say so, and room mends it."""
    small_disk(place, "ashburn", "20m")
    node = place.found()
    words = save_words(place, 28672)  # 7 MiB of vectors: as they grow, as the shards' results, and as the output
    out = place.path("out.npy")
    with open(place.path("submit.log"), "wb") as log:
        waiting = place.start([place.program, "submit", "embed", "--input", "text=" + words, "--shard-items", "512",
                               "--output", "vectors=" + out, "--node", node.socket],
                              stdout=log, stderr=log)

    def stalled():
        jobs = node.call("jobs")["jobs"]
        return jobs and jobs[0].get("stalled")
    wait_until(lambda: "it stalls: %s" % node.call("jobs"), stalled, 30)
    job = node.call("jobs")["jobs"][0]
    expect("full" in job["stalled"] and "ashburn" in job["stalled"], "%s" % job)
    said = lambda: open(place.path("submit.log"), encoding="utf-8").read()
    wait_until(lambda: "submit says so: %r" % said(), lambda: "stalled" in said() and "full" in said())
    expect(" stalled " in node.weir("jobs").out, node.weir("jobs").out)
    expect(re.search("^stalled .*full", node.weir("jobs", job["id"]).out, re.M), node.weir("jobs", job["id"]).out)
    expect("stalled" in node.weir("explain", job["id"]).out, node.weir("explain", job["id"]).out)
    expect("disk full" in node.weir("nodes").out, node.weir("nodes").out)
    expect(get(node, "/readyz")[0] == 503, "it says that it takes work")
    resize_disk(place, "ashburn", "96m")
    began = time.monotonic()
    node.wait_job(job["id"], timeout_s=20)
    expect(waiting.wait(20 * PATIENCE) == 0, said())
    expect(time.monotonic() - began < 20 * PATIENCE, "it took too long")
    expect(numpy.load(out).shape == (28672, 256), "the output is not whole")
    wait_until("it lends again", lambda: node.nodes()["ashburn"]["slots"] == 2, 30)


def results_without_room_at_home_are_told_and_taken_later(place):
    """Home runs nothing itself and can't keep what the executor sends: the job is stalled, and goes on with room."""
    small_disk(place, "ashburn", "32m")
    home = Node(place, "ashburn", work__cpu_slots=0)
    place.weir("init", "--federation", "rivers", "--site", "ashburn", "--name", "ashburn", "--data", home.data)
    home.start()
    executor = place.join(home, "berlin")
    for node in (home, executor):
        node.wait_states({"ashburn": "up", "berlin": "up"})
    fill_disk(place, "ashburn", 9 << 20)  # 7 MiB are taken for the output as it grows
    job = home.submit_detached("embed", "--input", "text=" + save_words(place, 28672), "--shard-items", "512")
    wait_until(lambda: "it stalls: %s" % home.job(job), lambda: "full" in home.job(job).get("stalled", ""), 30)
    expect(home.nodes()["ashburn"]["fault"] == "disk" and not home.nodes()["berlin"]["fault"], "%s" % home.nodes())
    expect("stalled" in home.weir("explain", job).out, home.weir("explain", job).out)
    resize_disk(place, "ashburn", "96m")
    done = home.wait_job(job, timeout_s=60)
    expect(done["done"] == 56 and "stalled" not in done, "%s" % done)


def a_node_whose_devices_failed_is_listed_at_fault(place):
    """Its only device's worker ends at once: bad rows come first, with the word for it, at every node."""
    broken = place.path("weir-worker")
    with open(broken, "w", encoding="utf-8") as out:
        out.write('#!/bin/sh\n[ "$1" = --list ] && exec %s --list\nexit 3\n' % os.path.join(place.build, "weir-worker"))
    os.chmod(broken, 0o755)
    home = place.found("cairo")
    bad = place.join(home, "zagreb", work__worker=broken, work__cpu_slots=1)
    for node in (home, bad):
        node.wait_states({"cairo": "up", "zagreb": "up"})
    bad.submit_detached("spin", "--items", "8", "--shard-items", "1", "--local", "--cache", "off")
    wait_until(lambda: "zagreb is at fault: %s" % home.nodes()["zagreb"],
               lambda: home.nodes()["zagreb"]["fault"] == "device" and bad.nodes()["zagreb"]["fault"] == "device", 30)
    for node in (home, bad):
        table = node.weir("nodes").out
        expect(re.search(r"zagreb\*? +zagreb +fault +0/0 .*device failed", table.splitlines()[1]), table)
    expect(metric(bad, "weir_devices_fault") == 1, "the metric")


def a_full_disk_is_told_and_loses_nothing(place):
    """Home's folder on a file system that fills up: the submitter is told, and what was acknowledged survives."""
    small_disk(place, "ashburn", "24m")
    data = place.path("ashburn")
    node = Node(place, "ashburn")
    place.weir("init", "--federation", "rivers", "--site", "ashburn", "--name", "ashburn", "--data", node.data)
    node.start()
    kept = node.submit_detached("spin", "--items", "16", "--shard-items", "1")
    node.wait_job(kept)
    ballast = os.path.join(data, "ballast")
    with open(ballast, "wb") as out:
        try:
            while True:
                out.write(bytes(65536))
                out.flush()
        except OSError:
            pass
    big = place.path("big.npy")
    numpy.save(big, numpy.random.default_rng(1).integers(0, 255, (40, 1 << 20), dtype=numpy.uint8))
    refused = node.submit("noop", "--input", "data=" + big, "--split", "data", code=None, timeout_s=60)
    expect(refused.code == 1 and ("full" in refused.error or "space" in refused.error), "%s" % refused)
    expect(node.process.poll() is None, "the node ended:\n%s" % node.log_end())
    os.unlink(ballast)
    expect_marks(node, kept, 16)
    after = node.submit_detached("spin", "--items", "16", "--shard-items", "1", "--cache", "off")
    node.wait_job(after)
    node.kill()
    node.start()
    for job in (kept, after):
        expect(node.job(job)["state"] == "done", "an acknowledged job is %s" % node.job(job)["state"])
        expect_marks(node, job, 16)


def a_node_rests_between_jobs(place):
    """An idle node uses next to no processor time."""
    mesh = place.mesh("ashburn", "berlin")

    def used_ticks():
        with open("/proc/%d/stat" % mesh["ashburn"].process.pid, encoding="ascii") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    before, began = used_ticks(), time.monotonic()
    time.sleep(5)  # a rate needs a span of time
    share = (used_ticks() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - began)
    if place.sanitized:
        raise Skipped("a sanitizer build has other costs")
    expect(share < 0.1, "an idle node used %.0f %% of a core" % (100 * share))


TESTS = [three_nodes, a_killed_node_is_seen_down_and_up_again, a_stopped_node_is_seen_down_and_up_again,
         a_drained_node_leaves, a_drain_lets_running_work_finish, a_home_killed_mid_job_continues_it,
         an_executor_killed_mid_job_costs_only_time, a_killed_worker_costs_one_attempt, a_hung_worker_is_killed,
         a_worker_that_stands_still_does_not_hold_its_job, a_cancelled_job_stops_everywhere, two_homes_share_the_mesh,
         thousands_of_short_shards_cost_no_worker, another_site_finds_cached_results,
         a_repeated_key_finds_the_same_job, large_outputs_travel_whole,
         reduced_outputs_are_the_shards_in_one_order, an_executor_without_room_fails_nobody, a_home_that_starts_without_room_keeps_its_jobs,
         outputs_without_room_at_home_are_told_and_stored_later,
         results_without_room_at_home_are_told_and_taken_later, a_node_whose_devices_failed_is_listed_at_fault,
         a_full_disk_is_told_and_loses_nothing,
         a_node_rests_between_jobs]
# What others do on the machine would be measured, captured or starved too.
ALONE = [a_node_rests_between_jobs]
