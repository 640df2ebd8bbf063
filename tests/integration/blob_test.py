"""Blobs between nodes: found wherever they are, fetched from several at once, and whole whoever dies or lies meanwhile."""
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import threading

import numpy

from harness import Failed, Skipped, expect, receive, wait_until
from mesh_test import metric

MIB = 1 << 20
LARGE_MIB = 192  # long enough in coming to be interrupted
WASTE_BYTES_MAX = 8 * MIB


def make_file(place, name, mib):
    path = place.path(name)
    with open(path, "wb") as out:
        for _ in range(mib):
            out.write(os.urandom(MIB))
        out.write(b"and an odd end")
    return path


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def put(node, path):
    return node.weir("blob", "put", path).out.strip()


def get(node, blob, expected, **options):
    path = node.place.path("got-" + node.name)
    node.weir("blob", "get", blob, path, **options)
    expect(digest(path) == digest(expected), "%s got other bytes than were put" % node.name)
    os.unlink(path)


def bulk(node):
    return node.call("gossip", stats=True)["bulk"]


class Getting:
    """`weir blob get` in the background."""

    def __init__(self, node, blob):
        self.node, self.blob, self.path = node, blob, node.place.path("coming-" + node.name)
        self.process = node.place.start([node.place.program, "blob", "--node", node.socket, "get", blob, self.path],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def wait_half(self, total):
        """Until half of it has come. Returns what the node had fetched then."""
        def half():
            expect(self.process.poll() is None, "it came before it could be interrupted: %s" % self.process.poll())
            now = bulk(self.node)["fetched_bytes"]
            return now if now >= total * 4 // 10 else 0
        return wait_until("half of it has come", half, 30)


class Client:
    """One connection to the API that carries several calls (node/api.h)."""

    def __init__(self, node):
        self.wire = socket.socket(socket.AF_UNIX)
        self.wire.settimeout(60)
        self.wire.connect(node.socket)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.wire.close()

    def send(self, kind, body):
        self.wire.sendall(struct.pack("<IB", len(body), ord(kind)) + body)

    def answer(self):
        while True:
            count, _ = struct.unpack("<IB", receive(self.wire, 5))
            answer = json.loads(receive(self.wire, count))
            if not answer.get("more"):
                return answer

    def call(self, op, **fields):
        self.send("J", json.dumps({"op": op, **fields}).encode())
        return self.answer()

    def put(self, data, **fields):
        self.send("J", json.dumps({"op": "blob.put", "bytes": len(data), **fields}).encode())
        for at in range(0, len(data), MIB):
            self.send("D", data[at:at + MIB])
        return self.answer()

    def begin_submit(self, blob, **fields):
        wanted = {"op": "submit", "kernel": "noop", "cache": "off", "replicas": 1, "inputs": [
            {"name": "data", "blob": blob, "format": "raw", "row_bytes": 1024, "split": True}]}
        self.send("J", json.dumps({**wanted, **fields}).encode())

    def submit(self, blob, **fields):
        self.begin_submit(blob, **fields)
        return self.answer()


def is_here(node, blob):
    return any(row["blob"] == blob for row in node.call("blob.ls")["blobs"])


def is_pinned(node, blob):
    return any(row["blob"] == blob and row["pinned"] for row in node.call("blob.ls")["blobs"])


def a_blob_is_found_wherever_it_is(place):
    mesh = place.mesh("ashburn", "berlin", "cairo")
    small, large = make_file(place, "small", 0), make_file(place, "large", 5)
    for path in (small, large):
        blob = put(mesh["ashburn"], path)
        answer = mesh["berlin"].weir("blob", "stat", blob, "--json").json
        expect(answer["here"] is False and answer["holders"] == ["ashburn"], "stat says %s" % answer)
        mesh["berlin"].weir("blob", "stat", blob[:12], code=3)  # the first digits name what is here
        get(mesh["berlin"], blob, path)
        get(mesh["berlin"], blob[:12], path)
        answer = mesh["berlin"].weir("blob", "stat", blob[:12], "--json").json
        expect(answer["here"] is True and answer["bytes"] == os.path.getsize(path), "stat says %s" % answer)
        holders = mesh["cairo"].weir("blob", "stat", blob, "--json").json["holders"]
        expect("ashburn" in holders or "berlin" in holders, "cairo finds it at %s" % holders)
        mesh["ashburn"].weir("blob", "rm", blob)
        get(mesh["cairo"], blob, path)  # from berlin, though ashburn may be named, too
    nowhere = "0" * 64
    for verb in ("get", "stat"):
        answer = mesh["cairo"].weir("blob", verb, nowhere, code=3)
        expect("no other that answers has it" in answer.error, "%s" % answer)


def a_blob_larger_than_the_cache_is_not_said_to_be_kept(place):
    """By itself or as the input of a job, which pins it once it is submitted."""
    node = place.mesh("ashburn", store__cache="4MiB")["ashburn"]
    rows = place.path("rows.npy")
    numpy.save(rows, numpy.zeros((1_000_000, 8), dtype=numpy.uint8))
    for words in (("blob", "put", rows), ("submit", "noop", "--input", "data=" + rows, "--split", "data", "--detach")):
        said = node.weir(*words, code=1)
        expect("not kept" in said.error and "store.cache" in said.error and not said.out, "%s" % said)
    put(node, make_file(place, "fits", 2))


def inputs_that_do_not_fit_together_are_refused_and_not_evicted(place):
    node = place.mesh("ashburn", store__cache="8MiB")["ashburn"]
    draw = numpy.random.default_rng(1)
    paths = [place.path("base.npy"), place.path("query.npy")]
    for path in paths:
        numpy.save(path, draw.integers(-127, 128, (24_000, 256), dtype=numpy.int8))
    said = node.weir("submit", "knn", "--input", "base=" + paths[0], "--input", "query=" + paths[1], "--split", "query",
                     "--detach", code=1)
    for words in ("query", "not kept", "for the same job", "store.cache", "8.0 MiB"):
        expect(words in said.error, "no %r in %s" % (words, said))
    expect(node.weir("jobs", "--json").json["jobs"] == [], "a job of it was kept")
    wait_until("what was uploaded is let go", lambda: not any(
        row["pinned"] for row in node.call("blob.ls")["blobs"]))


def what_is_uploaded_for_a_job_stays_until_its_submit(place):
    """Whatever others upload meanwhile; but not for longer than its connection lasts, nor over a start of the node."""
    node = place.mesh("ashburn", store__cache="8MiB")["ashburn"]

    def crowd():
        for _ in range(4):
            put(node, make_file(place, "other", 6))

    with Client(node) as one, Client(node) as other:
        blobs = [client.put(os.urandom(6 * MIB), hold=True)["blob"] for client in (one, other)]
        crowd()
        for client, blob in zip((one, other), blobs):
            answer = client.submit(blob)
            expect(answer.get("ok"), "an input was not kept until its submit: %s" % answer)
            node.wait_job(answer["job"])
        # The next job's inputs don't count with those of the last.
        expect(one.put(os.urandom(6 * MIB), hold=True).get("ok"), "the connection still holds its last job's inputs")

    with Client(node) as client:
        loose = client.put(os.urandom(5 * MIB))["blob"]
        held = client.put(os.urandom(5 * MIB), hold=True)["blob"]
        expect(not is_pinned(node, loose), "a blob that no job follows is pinned")
        expect(is_pinned(node, held), "it is not held")
    wait_until("it is let go with its connection", lambda: not is_pinned(node, held))

    def has_gone():
        crowd()
        return not is_here(node, held)

    wait_until("it goes when others need the room", has_gone)

    with Client(node) as client:
        held = client.put(os.urandom(5 * MIB), hold=True)["blob"]
        node.kill()
        node.start()
        expect(not is_pinned(node, held), "an earlier run's hold was not released")
    with Client(node) as client:
        answers = [client.put(b"%d" % number, hold=True) for number in range(6)]
        expect([answer["ok"] for answer in answers] == 5 * [True] + [False], "a connection holds any number: %s" % answers)


def what_a_submit_names_stays_until_its_job_has_it(place):
    """It was uploaded for nothing in particular, and others upload while all nodes are asked for a job of its key."""
    mesh = place.mesh("ashburn", "berlin", "cairo", store__cache="8MiB")
    node = mesh["ashburn"]
    with Client(node) as client:
        other = client.put(os.urandom(3 * MIB))["blob"]
        refused = client.submit(other, replicas=5)
        expect("too few nodes" in refused.get("error", ""), refused)
        wait_until("a refused job's inputs are let go", lambda: not is_pinned(node, other))
        loose = client.put(os.urandom(3 * MIB))["blob"]
        mesh["berlin"].signal(signal.SIGSTOP)
        client.begin_submit(loose, key="mine")
        for _ in range(4):
            put(node, make_file(place, "other", 6))
        answer = client.answer()
        expect(answer.get("ok"), "its input was not kept until the job had it: %s" % answer)
        node.wait_job(answer["job"])


def what_all_connections_hold_together_is_bounded(place):
    node = place.mesh("ashburn", store__cache="8MiB")["ashburn"]
    inputs = [os.urandom(6 * MIB) for _ in range(6)]
    clients = [Client(node) for _ in range(7)]
    for client, data in zip(clients, inputs[:5]):
        expect(client.put(data, hold=True)["ok"], "five times 6 MiB are less than four times 8")
    refused = clients[5].put(inputs[5], hold=True)
    for words in ("not kept", "4 times store.cache", "8.0 MiB", "try again"):
        expect(words in refused.get("error", ""), "no %r in %s" % (words, refused))
    expect(clients[6].put(inputs[0], hold=True)["ok"], "what another holds already counts twice")
    clients[1].wire.close()
    wait_until("there is room again", lambda: clients[5].put(inputs[5], hold=True)["ok"])


def at_once(count, one):
    """Calls one(0) to one(count - 1), all at once; fails if any of them does."""
    failures = []

    def call(number):
        try:
            one(number)
        except Failed as reason:
            failures.append(str(reason))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expect(not failures, "; ".join(failures))


def a_result_larger_than_the_cache_comes_through_any_node(place):
    home = place.mesh("ashburn")["ashburn"]
    job = home.submit_detached("spin", "--items", "3000000", "--param", "us=0", "--shard-items", "200000")
    blob = home.wait_job(job)["outputs"][0]["blob"]
    asked = place.join(home, "dublin", store__cache="8MiB")
    asked.wait_states({"ashburn": "up"})

    def one(number):
        out = place.path("mark-%d.npy" % number)
        asked.weir("submit", "--reattach", job, "-O", "mark=" + out)
        expect(os.path.getsize(out) > 3_000_000 * 4, "result %d is said to be whole, and is not" % number)

    at_once(3, one)

    def has_gone():
        put(asked, make_file(place, "small", 0))  # room is looked for with what comes next
        return not is_here(asked, blob)

    wait_until("its room is given back", has_gone)


def computed_for_a_deaf_home(place, shards):
    """A job of so many results, each of more than its executor's cache, computed while its home hears nothing. Returns its
    home, the executor, and the job as it ended."""
    home = place.mesh("ashburn", work__cpu_slots=0)["ashburn"]
    executor = place.join(home, "berlin", store__cache="1MiB", work__cpu_slots=shards)
    home.wait_states({"berlin": "up"})
    home.submit("spin", "--items", shards, "--param", "us=300000", "--shard-items", "1", "--cache", "off")
    workers = executor.children("--serve")
    expect(len(workers) == shards, "not a worker for each slot: %s" % workers)
    for worker in workers:  # nothing is finished before all of it is there
        os.kill(worker, signal.SIGSTOP)
    job = home.submit_detached("spin", "--items", shards * 270000, "--param", "us=0", "--shard-items", "270000",
                               "--cache", "off", "--replicas", "1")
    wait_until("it is at its executor", lambda: home.job(job)["running"] == shards)
    home.signal(signal.SIGSTOP)
    for worker in workers:
        os.kill(worker, signal.SIGCONT)

    def bundles(state):
        return metric(executor, "weir_bundles_" + state)

    wait_until("the results wait for their home", lambda: bundles("unacked") > bundles("waiting") + bundles("running") == 0)

    def are_left():
        put(executor, make_file(place, "other", 0))  # room is looked for with what comes next
        return sum(row["bytes"] > MIB for row in executor.call("blob.ls")["blobs"])

    wait_until("3 of them are held, no more", lambda: are_left() == 3)
    home.signal(signal.SIGCONT)
    return home, executor, home.wait_job(job)


def results_stay_at_their_executor_until_their_home_has_them(place):
    home, executor, done = computed_for_a_deaf_home(place, 3)
    expect("cannot fetch an output" not in home.log_text(), "a result was not there any more:\n%s" % home.log_end())
    expect(done["reassigned"] == 0, "shards were computed twice: %s" % done)
    wait_until("they are let go once they are there", lambda: not any(
        row["pinned"] for row in executor.call("blob.ls")["blobs"]))


def results_beyond_what_is_held_are_computed_again(place):
    """They take a bounded part of the executor's disk; one that is gone doesn't keep its job from going on."""
    home, executor, done = computed_for_a_deaf_home(place, 4)
    expect("fill 4 times store.cache" in executor.log_text(), "all were held:\n%s" % executor.log_end())
    expect(done["reassigned"] > 0, "none was computed again: %s" % done)
    story = home.weir("explain", done["id"]).out
    expect("is not there any more" in story, story)


def half_got(place):
    """Two sites, a file at the first, its size, and the second's get of it, of which half has come."""
    mesh = place.mesh("ashburn", "berlin")
    path = make_file(place, "large", LARGE_MIB)
    getting = Getting(mesh["berlin"], put(mesh["ashburn"], path))
    getting.wait_half(os.path.getsize(path))
    return mesh, path, os.path.getsize(path), getting


def a_fetch_goes_on_after_the_receiver_was_killed(place):
    mesh, path, total, getting = half_got(place)
    mesh["berlin"].kill()
    mesh["berlin"].start()
    mesh["berlin"].wait_states({"ashburn": "up"})
    get(mesh["berlin"], getting.blob, path, timeout_s=120)
    after = bulk(mesh["berlin"])
    served = bulk(mesh["ashburn"])["served_bytes"]
    expect(after["fetch_resumed_bytes"] > 0, "nothing was taken up: %s" % after)
    expect(after["fetch_resumed_bytes"] + after["fetched_bytes"] == total, "some of it came twice: %s" % after)
    expect(served - total <= WASTE_BYTES_MAX, "%d bytes were served for nothing" % (served - total))


def an_interrupted_get_leaves_no_file_and_is_taken_up(place):
    mesh, path, total, getting = half_got(place)
    getting.process.send_signal(signal.SIGINT)
    said = getting.process.communicate(timeout=60)[1].decode()
    expect(getting.process.returncode == 130 and "interrupted" in said, "it ended with %s: %s" % (
        getting.process.returncode, said))
    left = [name for name in os.listdir(place.folder) if name.startswith(os.path.basename(getting.path))]
    expect(not left, "left behind: %s" % left)
    get(mesh["berlin"], getting.blob, path, timeout_s=120)
    after = bulk(mesh["berlin"])
    expect(after["fetch_resumed_bytes"] + after["fetched_bytes"] <= total + WASTE_BYTES_MAX, "it came twice: %s" % after)


def a_fetch_goes_on_after_the_holder_was_killed(place):
    mesh, path, total, getting = half_got(place)
    mesh["ashburn"].kill()
    mesh["ashburn"].start()
    expect(getting.process.wait(120) == 0, "it ended with %s: %s" % (getting.process.returncode,
                                                                    getting.process.stderr.read()))
    expect(digest(getting.path) == digest(path), "other bytes came than were put")
    after = bulk(mesh["berlin"])
    expect(after["fetched_bytes"] == total, "something of it came twice: %s" % after)


def of_two_holders_the_one_that_garbles_is_named_and_passed_over(place):
    if place.sanitized:
        raise Skipped("a sanitizer's own hooks and a preloaded library don't go together")
    shim = place.path("garble.so")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, os.path.join(os.path.dirname(__file__), "garble.c"), "-ldl"],
                   check=True)
    mesh = place.mesh("ashburn", "berlin", "cairo")
    path = make_file(place, "large", 40)
    blob = put(mesh["ashburn"], path)
    get(mesh["berlin"], blob, path)  # now there are two
    mesh["berlin"].stop()
    mesh["berlin"].launch(env={**os.environ, "LD_PRELOAD": shim})
    wait_until("berlin serves", mesh["berlin"].serves)
    mesh["cairo"].wait_states({"ashburn": "up", "berlin": "up"})
    wait_until("cairo knows of both", lambda: len(
        mesh["cairo"].weir("blob", "stat", blob, "--json").json["holders"]) == 2)
    get(mesh["cairo"], blob, path)
    after = bulk(mesh["cairo"])
    expect(after["fetch_corrupt"] == 1, "the liar was not counted once: %s" % after)
    expect(after["fetched_bytes"] == os.path.getsize(path), "%s" % after)
    expect("holder=berlin" in mesh["cairo"].log_text(), "the liar is not named:\n%s" % mesh["cairo"].log_end())


def what_a_live_job_pins_is_not_removed(place):
    mesh = place.mesh("ashburn", "berlin")
    home = mesh["ashburn"]
    path = make_file(place, "rows", 2)
    with open(path, "ab") as out:
        out.truncate(2 * MIB)
    blob = put(home, path)
    job = home.call("submit", kernel="noop", shard_items=64, cache="off", replicas=1, inputs=[
        {"name": "data", "blob": blob, "format": "raw", "row_bytes": 1024, "split": True}])["job"]
    answer = home.weir("blob", "rm", blob, code=1)
    expect("a job needs this blob" in answer.error, "%s" % answer)
    home.wait_job(job)


def a_holder_that_is_slow_to_answer_is_tried_again(place):
    """The only one that has it stands still for longer than a fetch waits for an answer, and not so long that it is down."""
    mesh = place.mesh("ashburn", "berlin")
    holder, asker = mesh["ashburn"], mesh["berlin"]
    path = make_file(place, "slow.bin", 2)
    blob = put(holder, path)
    first = make_file(place, "first.bin", 2)
    get(asker, put(holder, first), first)  # the two know each other's sockets
    before = bulk(asker)["fetch_timeouts"]
    holder.signal(signal.SIGSTOP)
    getting = Getting(asker, blob)
    wait_until("the fetch gives it up", lambda: bulk(asker)["fetch_timeouts"] > before, 30)
    holder.signal(signal.SIGCONT)
    expect(getting.process.wait(60) == 0, "it ended with %s: %s" % (getting.process.returncode, getting.process.stderr.read()))
    expect(digest(getting.path) == digest(path), "the bytes are others")


def clients_that_ask_at_once_share_a_fetch(place):
    mesh = place.mesh("ashburn", "berlin")
    path = make_file(place, "large", 64)
    blob = put(mesh["ashburn"], path)

    def one(number):
        out = place.path("copy-%d" % number)
        mesh["berlin"].weir("blob", "get", blob, out, timeout_s=120)
        expect(digest(out) == digest(path), "copy %d differs" % number)

    at_once(4, one)
    after = bulk(mesh["berlin"])
    expect(after["fetched_bytes"] == os.path.getsize(path), "it was fetched more than once: %s" % after)


def an_input_is_fetched_once_per_node_whatever_the_number_of_shards(place):
    mesh = place.mesh("ashburn", "berlin", "cairo")
    home, others = mesh["ashburn"], (mesh["berlin"], mesh["cairo"])
    draw = numpy.random.default_rng(1)
    base, query = place.path("base.npy"), place.path("query.npy")
    numpy.save(base, draw.integers(-127, 128, (64 * 1024, 256), dtype=numpy.int8))  # 16 MiB
    numpy.save(query, draw.integers(-127, 128, (240, 256), dtype=numpy.int8))
    job = home.submit_detached("knn", "--input", "base=" + base, "--input", "query=" + query, "--split", "query",
                               "--shard-items", "2", "--param", "k=5", "--cache", "off")
    done = home.wait_job(job, timeout_s=120)
    ran = {row["name"]: row["shards"] for row in done["by_node"]}
    expect(any(ran.get(node.name, 0) > 1 for node in others), "nobody else ran shards: %s" % ran)
    size = os.path.getsize(base)
    for node in others:
        if ran.get(node.name, 0) == 0:
            continue
        fetched = bulk(node)["fetched_bytes"]
        expect(size <= fetched < size + MIB, "%s ran %d shards and fetched %d bytes for an input of %d" % (
            node.name, ran[node.name], fetched, size))


TESTS = [
    a_holder_that_is_slow_to_answer_is_tried_again,
    an_input_is_fetched_once_per_node_whatever_the_number_of_shards,
    a_blob_is_found_wherever_it_is,
    a_blob_larger_than_the_cache_is_not_said_to_be_kept,
    inputs_that_do_not_fit_together_are_refused_and_not_evicted,
    what_is_uploaded_for_a_job_stays_until_its_submit,
    what_a_submit_names_stays_until_its_job_has_it,
    what_all_connections_hold_together_is_bounded,
    a_result_larger_than_the_cache_comes_through_any_node,
    results_stay_at_their_executor_until_their_home_has_them,
    results_beyond_what_is_held_are_computed_again,
    a_fetch_goes_on_after_the_receiver_was_killed,
    an_interrupted_get_leaves_no_file_and_is_taken_up,
    a_fetch_goes_on_after_the_holder_was_killed,
    of_two_holders_the_one_that_garbles_is_named_and_passed_over,
    what_a_live_job_pins_is_not_removed,
    clients_that_ask_at_once_share_a_fetch,
]
