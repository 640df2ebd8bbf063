"""What operators do to a mesh at work: restart it node by node, drain it, cut it in two."""
import os
import signal
import subprocess
import threading
import time

import numpy

from harness import PATIENCE, Failed, Skipped, expect, wait_until
from mesh_test import SPIN, THREE, expect_marks, get, metric, spin_marks, wait_running
from takeover_test import FIVE, LONG_ITEMS, LONG_SPIN, finish_everywhere, listed
from refusal_test import save

ITEMS = 8
SHARD_US = 20000


class Load:
    """Clients at several nodes, each with one job after the other, as a program does that people rely on: a submit that
    is not answered, or is refused because the node stops, is repeated under its key at the next node, and so is the wait."""

    def __init__(self, nodes, clients):
        self.nodes = nodes
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.jobs = {}  # id: what its wait said last, as JSON
        self.problems = []
        self.threads = [threading.Thread(target=self.work, args=(i,), daemon=True) for i in range(clients)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.finish()

    def finish(self):
        """No job is submitted any more, and all that were are waited for."""
        self.over.set()
        for thread in self.threads:
            thread.join(120 * PATIENCE)
            if thread.is_alive():
                self.problems.append("a client still waits")

    def count(self):
        with self.lock:
            return len(self.jobs)

    def ask(self, client, *arguments):
        """At one node after the other until one answers with something final."""
        deadline = time.monotonic() + 60 * PATIENCE
        turn = client
        while True:
            node = self.nodes[turn % len(self.nodes)]
            answer = node.weir(*arguments, code=None, timeout_s=60)
            if answer.code == 0:
                return answer
            # 4: no node there; 6: it ended while we waited; else only a node that stops may send us on.
            expect(answer.code in (4, 6) or "draining" in answer.error, "%s: %s" % (node.name, answer))
            if time.monotonic() > deadline:
                raise Failed("no node takes it: %s" % answer)
            turn += 1
            time.sleep(0.1)

    def work(self, client):
        path = self.nodes[0].place.path("load%d.npy" % client)
        number = 0
        try:
            while not self.over.is_set():
                number += 1
                job = self.ask(client, "submit", "spin", "--items", ITEMS, "--shard-items", "1", "--param",
                               "us=%d" % SHARD_US, "--cache", "off", "--key", "load-%d-%d" % (client, number), "--detach",
                               "--json").json["job"]
                done = self.ask(client, "submit", "--reattach", job, "--output", "mark=" + path, "--json").json
                expect(numpy.array_equal(numpy.load(path).reshape(-1), spin_marks(ITEMS)), "job %s is wrong" % job)
                with self.lock:
                    self.jobs[job] = done
        except Exception as problem:  # told by the test's own thread
            self.problems.append("client %d, job %d: %s" % (client, number, problem))

    def check(self):
        expect(not self.problems, "; ".join(self.problems))
        for job, said in self.jobs.items():
            expect(said["state"] == "done" and said["done"] == ITEMS, "%s: %s" % (job, said))

    def run_again(self):
        return sum(said["reassigned"] for said in self.jobs.values())


def restart(node, others):
    code = node.stop()
    expect(code == 0, "%s ended with %s:\n%s" % (node.name, code, node.log_end()))
    node.start()
    for other in others:
        other.wait_states({node.name: "up"}, 45)


def a_mesh_is_restarted_node_by_node_under_load(place):
    """SIGTERM and a new start, one node after the other: no job fails, none is wrong, and what ran is not run again."""
    mesh = place.mesh(*FIVE, work__cpu_slots=1, **{"tenants__uid-%d" % os.getuid(): "geology"})
    nodes = list(mesh.values())
    with Load(nodes, 3) as load:
        for node in nodes:
            before = load.count()
            restart(node, [other for other in nodes if other is not node])
            wait_until("jobs go on after %s" % node.name, lambda: load.problems or load.count() > before + 3, 60)
    load.check()
    print("%d jobs, %d shards run again" % (len(load.jobs), load.run_again()), flush=True)
    expect(load.run_again() <= len(nodes), "%d shards of %d jobs ran again" % (load.run_again(), len(load.jobs)))


# ---- Drains


def submit_for(home, replicas):
    return home.submit_detached("spin", "--items", "200", "--shard-items", "1", "--param", "us=100000", "--cache", "off",
                                "--replicas", replicas)


def a_stop_that_waits_for_a_lost_home_says_so(place):
    """One that keeps the journal still lives, alone: with another it would take the results."""
    mesh = place.mesh(*FIVE[:4])
    home = mesh["ashburn"]
    job = submit_for(home, 3)
    keepers = [row["name"] for row in home.job(job)["keepers"] if row["name"] != "ashburn"]
    other = next(mesh[name] for name in FIVE[1:4] if name not in keepers)
    wait_running(home, other, job)
    home.kill()
    mesh[keepers[0]].kill()
    other.signal(signal.SIGTERM)
    wait_until("the log says what it waits for", lambda: "event=drain state=waiting unacked=" in other.log_text(), 20)
    expect("state=forsaken" not in other.log_text(), "it left though one that keeps the journal lives")
    other.signal(signal.SIGTERM)  # as it says
    other.wait_end(10)


def a_drain_does_not_wait_for_those_that_are_lost(place):
    mesh = place.mesh("ashburn", "berlin")
    home, other = mesh["ashburn"], mesh["berlin"]
    wait_running(home, other, submit_for(home, 1))
    home.kill()
    draining = drain(place, other)
    expect(draining.wait(60) == 0, "the drain ended with %s: %s" % (draining.returncode, draining.stderr.read()))
    other.wait_end(10)
    expect("event=drain state=forsaken unacked=" in other.log_text(), other.log_end())


def drain(place, node, **options):
    return place.start([place.program, "drain", "--node", node.socket], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       text=True, **options)


def a_drain_ends_when_it_is_empty_whoever_looks_on(place):
    """The only node with a live job: it is finished. Meanwhile a second drain and a submit are refused in words, and Ctrl-C
    stops neither the drain nor the job; a later drain looks on again."""
    node = place.found()
    job = node.submit_detached("spin", *SPIN)
    wait_until("it runs", lambda: node.job(job)["done"] > 0)
    first = drain(place, node)
    wait_until("it drains", lambda: node.status()["draining"])
    second = node.weir("drain", code=1)
    expect("draining this node already" in second.error, second)
    refused = node.submit("spin", "--items", "1", code=1)
    expect("this node is draining; submit at another one" in refused.error, refused)
    expect(get(node, "/readyz") == (503, "draining\n"), get(node, "/readyz"))
    first.send_signal(signal.SIGINT)
    _, error = first.communicate(timeout=30)
    expect(first.returncode == 130 and "goes on draining" in error, (first.returncode, error))
    expect(node.job(job)["state"] == "running", "the job ended too early: %s" % node.job(job))
    again = node.weir("drain", timeout_s=120)
    expect("has left the mesh and ends" in again.out, again)
    expect(node.wait_end() == 0, node.log_end())
    node.start()
    expect_marks(node, job)


# ---- Partitions


def done_by(node, job):
    """The job's shards that were done by that node, its home."""
    return sum(row["shards"] for row in node.job(job)["by_node"] if row["name"] == node.name)


def a_minority_says_so_and_goes_on_when_it_meets_the_others(place):
    """Two of three stand still, as behind a cut: the job's home says within 10 s that nothing is acknowledged any more, runs
    what it was given, and a job that was submitted meanwhile is acknowledged when they are back."""
    mesh = place.mesh(*THREE)
    home, others = mesh["ashburn"], [mesh["berlin"], mesh["cairo"]]
    job = home.submit_detached("spin", *LONG_SPIN, "--replicas", "3")
    wait_running(home, mesh["berlin"], job)
    began = time.monotonic()
    for node in others:
        node.signal(signal.SIGSTOP)
    done = done_by(home, job)
    wait_until(lambda: "the job is stalled: %s" % home.job(job), lambda: home.job(job).get("stalled"), 20)
    took_s = time.monotonic() - began
    expect(took_s < 10 * PATIENCE / 2, "it took %.1f s to say so" % took_s)
    expect(" stalled " in home.weir("jobs").out and "stalled: " in home.weir("explain", job).out, home.weir("jobs"))
    waiting = place.start([place.program, "submit", "spin", "--items", "2", "--param", "us=77", "--cache", "off",
                           "--replicas", "3", "--node", home.socket], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)
    wait_until("what was given to this node is run", lambda: done_by(home, job) > done, 30)
    wait_until("the new job waits", lambda: len(home.call("jobs")["jobs"]) == 2)
    expect(waiting.poll() is None, "a submit was answered by a minority")
    for node in others:
        node.signal(signal.SIGCONT)
    said = waiting.communicate(timeout=120)[0]
    expect(waiting.returncode == 0, "the submit ended with %d: %s" % (waiting.returncode, said))
    home.wait_job(job, timeout_s=120)
    for node in mesh.values():
        expect_marks(node, job, LONG_ITEMS)


# ---- Disks


def a_disk_whose_syncs_fail_ends_its_node_and_loses_nothing(place):
    """It says why, with code 1, and to the others it is a node that died; started again on a sound disk it is as before."""
    if place.sanitized:
        raise Skipped("a sanitizer's own hooks and a preloaded disk don't go together")
    library, fault = place.path("faulty_disk.so"), place.path("fault")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "chaos", "faulty_disk.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    mesh = place.mesh(*THREE)
    bad, home = mesh["berlin"], mesh["ashburn"]
    kept = bad.submit_detached("spin", "--items", "4", "--cache", "off", "--replicas", "1")
    bad.wait_job(kept)
    expect(bad.stop() == 0, bad.log_end())
    bad.environment = {**os.environ, "LD_PRELOAD": library, "WEIR_CHAOS_SYNC_FAULT": fault}
    bad.start()
    home.wait_states({name: "up" for name in THREE}, 45)
    with open(fault, "w", encoding="ascii"):
        pass
    job = home.submit_detached("spin", *SPIN, "--replicas", "3")
    expect(bad.wait_end(30) == 1, bad.log_end())
    expect("event=store" in bad.log_text() and "check the disk first" in bad.log_text(), bad.log_end())
    expect(home.wait_job(job, timeout_s=90)["done"] == 60, home.job(job))
    os.unlink(fault)
    bad.start()
    home.wait_states({name: "up" for name in THREE}, 45)
    expect_marks(bad, kept, 4)
    expect_marks(bad, job)


# ---- Clocks

DAY_S = 86400
YEAR_S = 365 * DAY_S


def odd_clock(place):
    """A library that gives a node another time, to be preloaded."""
    if place.sanitized:
        raise Skipped("a sanitizer's own hooks and a preloaded clock don't go together")
    library = place.path("clock.so")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def let_pass(mesh, seconds):
    """On all clocks of nodes that start_with_passing started."""
    with open(mesh["ashburn"].place.path("passed.new"), "w", encoding="ascii") as file:
        file.write(str(seconds))
    os.replace(file.name, mesh["ashburn"].place.path("passed"))


def pinned_blobs(node):
    return {row["blob"] for row in node.call("blob.ls")["blobs"] if row["pinned"]}


def finished_jobs_are_forgotten_everywhere(place):
    """After store.keep_jobs, once a node's clock has been even for 5 min: the home's rows, the journals of the others, and
    the pins on blobs of both, so that they are evicted. A later job of the same input stays."""
    library = odd_clock(place)
    mesh = place.mesh(*THREE, store__keep_jobs="10m", store__cache="6MiB")
    home = mesh["ashburn"]
    for node in mesh.values():
        node.stop()
        node.environment = {**os.environ, "LD_PRELOAD": library, "WEIR_TEST_PASSED": place.path("passed")}
        node.start()
    for node in mesh.values():
        node.wait_states({name: "up" for name in THREE}, 60)

    def submit(seed, replicas):
        rows = numpy.random.default_rng(seed).integers(0, 256, (64, 65536), dtype=numpy.uint8)
        job = home.submit("noop", "--input", "data=" + save(place, "rows.npy", rows), "--split", "data", "--shard-items",
                          "16", "--json", "--cache", "off", "--replicas", replicas, timeout_s=90).json
        return job, {row["blob"] for row in job["inputs"] + job["outputs"]}
    (kept, blobs), (alone, more) = submit(3, "3"), submit(4, "1")
    finish_everywhere(mesh, kept["id"])
    expect(pinned_blobs(home) >= blobs | more, "the home pins %s" % pinned_blobs(home))
    for name in THREE[1:]:
        expect(pinned_blobs(mesh[name]) & blobs, "%s pins nothing of it" % name)
    let_pass(mesh, 400)
    later, wanted = submit(3, "3")
    finish_everywhere(mesh, later["id"])
    expect({row["id"] for row in home.call("jobs")["jobs"]} == {kept["id"], alone["id"], later["id"]}, "forgotten too early")
    let_pass(mesh, 700)
    wait_until(lambda: "only the later one is left: %s" % listed(home),
               lambda: [row[0] for row in listed(home)] == [later["id"]], 60)
    wait_until(lambda: "the home pins %s" % pinned_blobs(home), lambda: pinned_blobs(home) == wanted)
    expect(all(pinned_blobs(mesh[name]) & wanted for name in THREE[1:]), "the others let go what a later job needs")
    let_pass(mesh, 1400)
    for node in mesh.values():
        wait_until(lambda: "%s pins %s" % (node.name, pinned_blobs(node)), lambda: not pinned_blobs(node), 60)
        expect(not listed(node), "%s lists %s" % (node.name, listed(node)))
    for seed in (5, 6):
        home.weir("blob", "put", save(place, "other.npy", numpy.random.default_rng(seed).bytes(4 << 20)))
    gone = home.weir("blob", "stat", kept["inputs"][0]["blob"], "--json").json
    expect(not gone["here"], "it is kept for nobody: %s" % gone)
    for node in mesh.values():
        node.stop()
        found = place.weir("store", "check", "--data", node.data, "--json", code=None).json
        expect(found["jobs"] == found["journals_kept"] == found["journal_rows"] == 0, "%s has %s" % (node.name, found))


def set_clock(node, off_s):
    with open(node.data + ".clock.new", "w", encoding="ascii") as file:
        file.write(str(off_s))
    os.replace(node.data + ".clock.new", node.data + ".clock")


def start_with_clock(node, library, off_s):
    set_clock(node, off_s)
    node.environment = {**os.environ, "LD_PRELOAD": library, "WEIR_TEST_CLOCK": node.data + ".clock"}
    return node


def note(node, name):
    return node.nodes()[name]["note"]


def clocks_said(node, peer, state):
    return node.log_text().count("event=clock peer=%s %s" % (peer.name, state))


def wait_note(mesh, odd, wanted, state, times):
    """All nodes note that of the odd one, which has said as often of each of them how it finds its clock, and they of it: who
    notes nothing of itself may have heard from a part of the others only. Short jobs make all tell of their capacity at once
    instead of within half a minute."""
    pairs = [pair for other in mesh.values() if other is not odd for pair in ((other, odd), (odd, other))]

    def all_note():
        for node in mesh.values():
            node.submit_detached("spin", "--items", "1", "--param", "us=1000", "--local", "--cache", "off")
        return (all(note(node, odd.name) == wanted for node in mesh.values())
                and all(clocks_said(*pair, state) == times for pair in pairs))
    wait_until(lambda: "all note %r of %s, and have said %r %d times: %r, %r" % (
        wanted, odd.name, state, times, [note(node, odd.name) for node in mesh.values()],
        [clocks_said(*pair, state) for pair in pairs]), all_note, 60)


def a_clock_that_is_off_is_told(place):
    """A member's clock jumps by a day, either way: it and the others say whose, and that it is set right again."""
    library = odd_clock(place)
    mesh = place.mesh(*THREE)
    odd = mesh["cairo"]
    expect(odd.stop() == 0, odd.log_end())
    start_with_clock(odd, library, 0).start()
    mesh["ashburn"].wait_states({"cairo": "up"}, 45)
    for times, off_s, word in ((1, DAY_S, "fast"), (2, -DAY_S, "slow")):
        set_clock(odd, off_s)
        wait_note(mesh, odd, "clock 24 h " + word, "ahead_s=", times)
        expect(all(not note(mesh["ashburn"], name) for name in ("ashburn", "berlin")), mesh["ashburn"].nodes())
        ahead_s = metric(odd, "weir_clock_ahead_seconds")
        expect(abs(ahead_s - off_s) < 600 and metric(mesh["berlin"], "weir_clock_ahead_seconds") == 0, ahead_s)
        set_clock(odd, 0)
        wait_note(mesh, odd, "", "state=good", times)
    for node, peer in ((mesh["ashburn"], odd), (odd, mesh["ashburn"])):
        for state in ("ahead_s=", "state=good"):
            expect(clocks_said(node, peer, state) == 2, node.log_end())
    odd.submit("spin", "--items", "4", "--cache", "off")


def a_clock_that_is_a_year_off_harms_no_identity(place):
    """At the start: a member says that its certificate is of another time. The authority's node renews its own, either
    way, and again when the clock is right. What it acknowledged is still there."""
    library = odd_clock(place)
    mesh = place.mesh("ashburn", "berlin")
    for node in mesh.values():
        node.job_kept = node.submit_detached("spin", "--items", "3", "--shard-items", "1")
        node.wait_job(node.job_kept)
    member, authority = mesh["berlin"], mesh["ashburn"]
    for off_s, words in ((YEAR_S, ("ended", "by this machine's clock")), (-YEAR_S, ("begins", "set this machine's clock"))):
        for node in (member, authority):
            expect(node.stop() == 0, node.log_end())
            start_with_clock(node, library, off_s)
        member.launch()
        expect(member.wait_end(30) == 1, "it runs with a certificate of another time")
        expect(all(word in member.log_end(1) for word in words), member.log_end(1))
        authority.start()
        expect(authority.job(authority.job_kept)["state"] == "done", "a clock made it forget a job")
        set_clock(member, 0)
        member.start()
        set_clock(authority, 0)
        expect(authority.stop() == 0, authority.log_end())
        authority.start()
        for node in (member, authority):
            node.wait_states({"ashburn": "up", "berlin": "up"}, 60)
            expect_marks(node, node.job_kept, 3)


STOP_S = 2
LONG_SHARD_S = 8


def stop_at_deadline(node):
    """SIGTERM while a shard runs that outlives the deadline: how long the node took, and that it said so."""
    began = time.monotonic()
    expect(node.stop() == 0, node.log_end())
    took_s = time.monotonic() - began
    expect(STOP_S <= took_s < LONG_SHARD_S - 2, "it ended after %.1f s:\n%s" % (took_s, node.log_end()))
    expect("event=drain state=late running=1" in node.log_text(), node.log_end())


def a_stop_ends_at_its_deadline(place):
    """What still runs then is done by others, or after the restart where nobody else has the job."""
    mesh = place.mesh(*THREE, node__stop_deadline="%ds" % STOP_S, work__cpu_slots=1)
    home = mesh["ashburn"]
    spin = ("--shard-items", str(LONG_SHARD_S), "--param", "us=1000000", "--cache", "off")
    job = home.submit_detached("spin", "--items", str(3 * LONG_SHARD_S), *spin, "--replicas", "3")
    wait_until("each node runs a shard", lambda: home.job(job)["running"] == 3)
    stop_at_deadline(home)
    expect(mesh["berlin"].wait_job(job, timeout_s=90)["home"] != "ashburn", mesh["berlin"].job(job))
    expect_marks(mesh["berlin"], job, 3 * LONG_SHARD_S)
    home.start()
    alone = home.submit_detached("spin", "--items", str(LONG_SHARD_S), *spin, "--replicas", "1", "--local")
    wait_until("the shard runs", lambda: home.job(alone)["running"] == 1, 30)
    stop_at_deadline(home)
    home.start()
    expect(home.wait_job(alone, timeout_s=90)["home"] == "ashburn", home.job(alone))
    expect_marks(home, alone, LONG_SHARD_S)


def the_unit_waits_longer_than_a_stop_takes(place):
    """systemd must not kill a node that keeps to its standard deadline."""
    service = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "packaging", "weir.service")
    with open(service, encoding="utf-8") as unit:
        waits_s = int(next(line for line in unit if line.startswith("TimeoutStopSec=")).partition("=")[2])
    with open(place.path("empty.conf"), "w", encoding="ascii"):
        pass
    deadline = place.weir("config", "dump", place.path("empty.conf"), "--json").json["config"]["node"]["stop_deadline"]
    expect(deadline.endswith("s") and waits_s >= int(deadline[:-1]) + 10, "%d s for %s" % (waits_s, deadline))


TESTS = [finished_jobs_are_forgotten_everywhere, a_stop_ends_at_its_deadline, the_unit_waits_longer_than_a_stop_takes,
         a_mesh_is_restarted_node_by_node_under_load, a_stop_that_waits_for_a_lost_home_says_so,
         a_drain_does_not_wait_for_those_that_are_lost,
         a_drain_ends_when_it_is_empty_whoever_looks_on,
         a_minority_says_so_and_goes_on_when_it_meets_the_others,
         a_disk_whose_syncs_fail_ends_its_node_and_loses_nothing, a_clock_that_is_off_is_told,
         a_clock_that_is_a_year_off_harms_no_identity]
LONG_TESTS = []
