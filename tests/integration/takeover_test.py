"""Jobs outlive their homes: journals of several copies on real nodes."""
import os
import time

import numpy

from harness import expect, wait_until
from mesh_test import SPIN, SPIN_ITEMS, expect_marks, wait_running

FIVE = ("ashburn", "berlin", "cairo", "dublin", "essen")
# Some 4 s on two cores: enough for a takeover to find some of it left.
LONG_ITEMS = 80
LONG_SPIN = ("--items", str(LONG_ITEMS), "--shard-items", "1", "--param", "us=100000", "--cache", "off")


def homes(nodes, job):
    """The nodes that say that they are the job's home."""
    return [node for node in nodes if job in {row["id"] for row in node.call("jobs")["jobs"]}]


def wait_taken_over(nodes, job, timeout_s=45):
    """Until one of the nodes has the job and goes on with it; returns that node."""
    def taken():
        found = homes(nodes, job)
        return found[0] if found and found[0].job(job)["state"] in ("running", "done") else None
    return wait_until("another node is the home of %s" % job[:8], taken, timeout_s)


def a_job_outlives_its_home(place):
    """SIGKILL of the home in the middle of a job: another node goes on with it, and what runs is not run again."""
    mesh = place.mesh(*FIVE)
    home = mesh["ashburn"]
    job = home.submit_detached("spin", *LONG_SPIN, "--replicas", "3")
    wait_running(home, mesh["berlin"], job)
    home.kill()
    began = time.monotonic()
    others = [mesh[name] for name in FIVE[1:]]
    next_home = wait_taken_over(others, job)
    took_s = time.monotonic() - began
    done = next_home.wait_job(job, timeout_s=120)
    expect(done["done"] == LONG_ITEMS and done["shards"] == LONG_ITEMS, "shards are missing: %s" % done)
    expect_marks(next_home, job, LONG_ITEMS)
    expect(took_s < 15 * 4, "the takeover took %.1f s" % took_s)
    print("takeover %.1f s, %d shards assigned again" % (took_s, done["reassigned"]))


TESTS = [a_job_outlives_its_home]
LONG_TESTS = []
