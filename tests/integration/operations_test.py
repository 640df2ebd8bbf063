"""What operators do to a mesh at work: restart it node by node, drain it, cut it in two."""
import os
import threading
import time

import numpy

from harness import PATIENCE, Failed, expect, wait_until
from mesh_test import spin_marks
from takeover_test import FIVE

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


TESTS = [a_mesh_is_restarted_node_by_node_under_load]
LONG_TESTS = []
