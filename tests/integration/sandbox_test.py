"""The sandbox as a node shows it, and what becomes of kernels that fail in it."""
import os
import subprocess

import numpy

from harness import Node, Skipped, expect, wait_until
from kernel_test import ENTRY, need_compiler, write_kernel

LAYERS = ["user", "pid", "memory", "processes", "mount", "dev", "net", "ipc", "privileges", "landlock", "seccomp"]
# No user namespace may be made below, and no privilege is left: as in a container that forbids both.
BARE = """#!/bin/sh
exec unshare -Ur sh -c 'echo 0 > /proc/sys/user/max_user_namespaces
exec setpriv --bounding-set=-all --inh-caps=-all --securebits +noroot "$@"' sh "%s" "$@"
"""


def checks_of(node, code=None):
    return {row["check"]: row for row in node.weir("doctor", "--json", code=code).json["checks"]}


def doctor_tells_each_layer_and_agrees_with_the_worker(place):
    node = place.found()
    said = subprocess.run([os.path.join(place.build, "weir-worker"), "--sandbox"], capture_output=True, text=True,
                          check=True).stdout
    checks = checks_of(node)
    for layer in LAYERS:
        on = '"layer":"%s","on":true' % layer in said
        row = checks["sandbox " + layer]
        expect((row["state"] == "ok") == on, "%s: the worker says %s" % (row, said))
        expect(on or row["fix"], "no fix: %s" % row)
    expect(checks["worker"]["state"] == "ok" and checks["disk"]["state"] == "ok", str(checks))
    expect(node.weir("doctor", code=None).code == int(any(
        row["state"] == "bad" for row in checks.values())), "the exit code")


def without_user_namespaces_users_kernels_are_refused_and_built_in_ones_run(place):
    need_compiler(place)
    node = Node(place, "ashburn")
    place.weir("init", "--federation", "rivers", "--site", "ashburn", "--name", "ashburn", "--data", node.data)
    bare = place.path("bare")
    with open(bare, "w", encoding="utf-8") as out:
        out.write(BARE % place.program)
    os.chmod(bare, 0o755)
    if subprocess.run([bare, "version"], capture_output=True, check=False).returncode != 0:
        raise Skipped("no user namespace to begin with")
    node.program = bare
    node.start()
    node.program = place.program
    checks = checks_of(node, code=0)
    expect(checks["sandbox user"]["state"] == "off" and "max_user_namespaces" in checks["sandbox user"]["fix"], str(checks))
    expect(checks["sandbox seccomp"]["state"] == "ok", "seccomp needs no namespace: %s" % checks)
    expect(checks["users' kernels cpu"]["state"] == "off", str(checks))
    node.weir("submit", "spin", "--items", "20", "--param", "us=100")
    job = node.weir("submit", *write_kernel(place, ENTRY % "  y[weir_item()] = x[weir_item()];"), "--detach").out.strip()
    wait_until("it is told why the job waits",
               lambda: "would refuse a user's kernel: its sandbox has no user" in
               " ".join(node.weir("explain", job).out.split()), 30)
    expect(node.nodes()["ashburn"]["sandbox"].startswith("no user"), node.nodes()["ashburn"])


def a_kernel_that_fails_twice_is_quarantined(place):
    need_compiler(place)
    node = place.found()
    bad = write_kernel(place, ENTRY % "  *(volatile int *)16 = 1;")
    for _ in range(2):
        answer = node.weir("submit", *bad, code=1, timeout_s=120)
        expect("not its own" in answer.error, str(answer))
    answer = node.weir("submit", *bad, code=1, timeout_s=120)
    expect("quarantined on this node" in answer.error, str(answer))
    job = node.weir("jobs", "--json").json["jobs"][0]["id"]
    expect("quarantined" in node.weir("logs", job).out, "the log of the job does not say so")
    row = checks_of(node, code=0)["quarantined kernel"]
    expect("not its own" in row["detail"], str(row))
    expect(not node.nodes()["ashburn"].get("note"), "the node is blamed: %s" % node.nodes())
    # Another kernel of the same author is another kernel.
    good = write_kernel(place, ENTRY % "  y[weir_item()] = 2 * x[weir_item()];")
    node.weir("submit", *good, "--output", "y=" + place.path("y.npy"), timeout_s=120)
    expect((numpy.load(place.path("y.npy")) == 2).all(), "a good kernel gave something else")


TESTS = [
    doctor_tells_each_layer_and_agrees_with_the_worker,
    without_user_namespaces_users_kernels_are_refused_and_built_in_ones_run,
    a_kernel_that_fails_twice_is_quarantined,
]
