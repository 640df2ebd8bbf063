"""The owner comes first: devices claimed by command, while others' work runs on them."""
import os
import signal
import subprocess
import time

import numpy

from harness import Node, expect, wait_until

# An endless kernel: shards of a quarter of an hour.
ENDLESS = ("--items", "4000", "--shard-items", "1000", "--param", "us=1000000", "--cache", "off")
SHORT = ("--items", "40", "--shard-items", "1", "--param", "us=100000", "--cache", "off")


def devices(node):
    return {row["device"]: row for row in node.call("devices")["devices"]}


def states(node):
    return {name: row["state"] for name, row in devices(node).items()}


def wait_lent(node, *names):
    wait_until(lambda: "%s of %s are lent: %s" % (names, node.name, states(node)),
               lambda: all(states(node)[name] == "lent" for name in names), 30)


def a_claimed_device_is_free_at_once_and_its_shards_go_back(place):
    mesh = place.mesh("ashburn", "berlin")
    home, lender = mesh["ashburn"], mesh["berlin"]
    home.weir("reclaim")
    job = home.submit_detached("spin", *ENDLESS)
    wait_lent(lender, "cpu:0", "cpu:1")
    before = {row["device"]: row for row in lender.call("devices")["devices"]}
    said = lender.weir("reclaim", "cpu:0", "--json").json
    expect([row["device"] for row in said["devices"]] == ["cpu:0"] and said["kept"], said)
    row = said["devices"][0]
    expect(row["state"] == "owned" and row["cause"] == "command" and 0 < row["reclaim_ms"] < 2000, row)
    # The other device was not disturbed: the very same bundle is still there.
    other = devices(lender)["cpu:1"]
    expect(other["state"] == "lent" and other["since_ms"] >= before["cpu:1"]["since_ms"], other)
    wait_until("the home hears of the slot", lambda: home.nodes()["berlin"]["slots"] == 1)
    text = lambda: home.weir("explain", job).out
    wait_until(lambda: "explain tells of the claim: " + text(), lambda: "its owner claimed cpu:0 (command)" in text())
    expect(len(lender.children("weir-worker")) == 1, "the claimed device still has a worker")
    note = {row["name"]: row["note"] for row in lender.weir("nodes", "--json").json["nodes"]}["berlin"]
    expect("owner" in note, "the note of berlin says %r" % note)
    home.weir("cancel", job)


def work_goes_on_elsewhere_and_comes_again_after_a_release(place):
    mesh = place.mesh("ashburn", "berlin", "cairo")
    home, lender = mesh["ashburn"], mesh["berlin"]
    home.weir("reclaim")
    job = home.submit_detached("spin", *SHORT)
    wait_lent(lender, "cpu:0", "cpu:1")
    lender.weir("reclaim")
    wait_until("berlin lends nothing", lambda: home.nodes()["berlin"]["slots"] == 0)
    done = home.wait_job(job, timeout_s=120)
    expect(done["done"] == 40, done)
    shares = {share["name"]: share["shards"] for share in done["by_node"]}
    expect(shares.get("cairo", 0) > 0, shares)
    lender.weir("release", "--now")
    job = home.submit_detached("spin", *ENDLESS)
    wait_lent(lender, "cpu:0", "cpu:1")
    home.weir("cancel", job)


def a_worker_that_does_not_listen_is_killed_after_the_grace(place):
    node = place.mesh("ashburn", work__cpu_slots=1, work__owner_grace_ms=200)["ashburn"]
    job = node.submit_detached("spin", *ENDLESS)
    wait_lent(node, "cpu:0")
    worker = wait_until("a worker runs", lambda: node.children("weir-worker"))[0]
    os.kill(worker, signal.SIGSTOP)
    row = node.weir("reclaim", "--json").json["devices"][0]
    expect(200 <= row["reclaim_ms"] < 3000, row)
    expect(worker not in node.children("weir-worker"), "the deaf worker lives")
    expect("fault" not in states(node).values(), states(node))
    wait_until("the shards went back without blame", lambda: "gave" in node.weir("explain", job).out)
    expect("failed" not in node.weir("explain", job).out, node.weir("explain", job).out)
    wait_until("the job waits for the owner", lambda: "its owner has its devices" in node.weir("explain", job).out)
    node.weir("cancel", job)


def a_claim_outlives_a_restart_and_ends_when_it_was_said_to(place):
    node = place.mesh("ashburn")["ashburn"]
    said = node.weir("reclaim", "cpu:1", "--for", "1h").out
    expect("cpu:1 is yours until" in said, said)
    node.weir("reclaim", "cpu:0", "--for", "8s")
    node.kill()
    node.start()
    expect(states(node)["cpu:1"] == "owned", states(node))
    until = devices(node)["cpu:1"]["until"]
    expect(until, devices(node))
    wait_until("the claim of 8 s ends", lambda: states(node)["cpu:0"] == "cooling", 30)
    expect(states(node)["cpu:1"] == "owned", states(node))
    said = node.weir("release", "cpu:1").out
    expect("cpu:1 is lent again in" in said, said)
    node.kill()
    node.start()
    expect(states(node)["cpu:1"] == "spare", "a claim that was released came back: %s" % states(node))


def what_a_device_does_and_who_has_it_is_told_everywhere(place):
    mesh = place.mesh("ashburn", "berlin")
    asked, lender = mesh["ashburn"], mesh["berlin"]
    row = lambda: (asked.nodes()["berlin"]["devices"] or [{}])[0]
    wait_until(lambda: "berlin's canary is known: %s" % row(), lambda: row().get("mflops", 0) > 0, 40)
    kind = row()
    expect(kind["kind"] == "cpu" and kind["count"] == 2 and kind["spare"] == 2 and kind["memory_mbps"] > 0, kind)
    expect(kind["measured_at"] > 0 and asked.nodes()["berlin"]["reclaim_p99_ms"] is None, asked.nodes()["berlin"])
    job = asked.submit_detached("spin", *ENDLESS)
    wait_lent(lender, "cpu:0", "cpu:1")
    lender.weir("reclaim", "cpu:1")
    wait_until(lambda: "the claim is told: %s" % row(), lambda: row()["owned"] == 1)
    expect(asked.nodes()["berlin"]["note"] == "owner has 1 of 2", asked.nodes()["berlin"]["note"])
    wait_until("so is what it took", lambda: asked.nodes()["berlin"]["reclaim_p99_ms"])
    asked.weir("cancel", job)
    shown = lender.weir("nodes", "-v").out
    for text in ("FLOP/s", "1 spare, 1 owned", "berlin cpu:1: its owner has it (command)"):
        expect(text in shown, "%r is not in:\n%s" % (text, shown))


CANARY = """#!/bin/sh
if [ "$1" = --canary ]; then
    echo $$ > "{pid}.new" && mv "{pid}.new" "{pid}"
    (sleep 0.1; kill -STOP $$) > /dev/null &
fi
exec "{real}" "$@"
"""


def a_measurement_ends_with_its_node(place):
    """Even one that hangs, of a node that was killed: nothing of ours is left on the machine."""
    pid, worker = place.path("canary.pid"), place.path("worker-that-stops")
    with open(worker, "w", encoding="ascii") as out:
        out.write(CANARY.format(pid=pid, real=os.path.join(place.build, "weir-worker")))
    os.chmod(worker, 0o755)
    node = place.mesh("ashburn", work__worker=worker)["ashburn"]
    wait_until("it measures", lambda: os.path.exists(pid), 30)
    with open(pid, encoding="ascii") as written:
        canary = int(written.read())

    def state():
        try:
            with open("/proc/%d/stat" % canary, encoding="ascii") as stat:
                return stat.read().rpartition(")")[2].split()[0]
        except OSError:
            return None

    wait_until(lambda: "the measurement hangs: it is %s" % state(), lambda: state() == "T", 10)
    try:
        node.kill()
        wait_until(lambda: "the measurement has ended: it is %s" % state(), lambda: state() in (None, "Z"), 10)
    finally:
        if state() == "T":
            os.kill(canary, signal.SIGKILL)


def large_inputs_that_workers_hold_are_told_everywhere(place):
    """A broadcast blob stays mapped in the workers that needed it: others place by that. Small ones are not worth a word."""
    mesh = place.mesh("ashburn", "berlin")
    home = mesh["ashburn"]
    numpy.save(place.path("base.npy"), numpy.random.default_rng(5).integers(-9, 9, (280000, 64), dtype=numpy.int8))
    numpy.save(place.path("small.npy"), numpy.ones((700, 64), dtype=numpy.int8))
    numpy.save(place.path("query.npy"), numpy.ones((600, 64), dtype=numpy.int8))
    for base in ("small", "base"):
        job = home.submit("knn", "--input", "base=" + place.path(base + ".npy"), "--input", "query=" + place.path("query.npy"),
                          "--split", "query", "--shard-items", 10, "--cache", "off", "--json").json
    ran = {row["name"] for row in job["by_node"] if row["shards"] > 0}
    expect(ran == set(mesh), "both had a part in it: %s" % job)
    blob = next(row["blob"] for row in job["inputs"] if row["name"] == "base")
    for node in mesh.values():
        wait_until("%s hears what the workers hold: %s" % (node.name, {name: row["residents"] for name, row in node.nodes().items()}),
                   lambda node=node: all(row["residents"] == [blob[:8]] for row in node.nodes().values()), 45)
    job = home.submit("knn", "--input", "base=" + place.path("base.npy"), "--input", "query=" + place.path("query.npy"), "--split",
                      "query", "--shard-items", 20, "--cache", "off", "--json").json
    told = " ".join(home.weir("explain", job["id"]).out.split())
    expect("asked berlin" in told and "away, holds its largest input" in told, told)
    expect("berlin holds blobs %s" % blob[:8] in home.weir("nodes", "-v").out, home.weir("nodes", "-v").out)


SLURM = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "packaging", "slurm")


def hook(name, **environment):
    """Runs it as slurmd does, with nothing in its environment but what is given."""
    done = subprocess.run([os.path.join(SLURM, "weir-" + name)], env={"PATH": "/usr/bin:/bin", **environment},
                          capture_output=True, text=True, check=False, timeout=60)
    expect(done.returncode != 127 and not done.stdout, "%s: %s %s" % (name, done.returncode, done.stderr))
    return done.returncode


def slurm_hooks_take_a_jobs_devices_and_give_them_again(place):
    node = place.mesh("ashburn")["ashburn"]
    here = {"WEIR": place.program, "WEIR_NODE": node.socket, "SLURM_JOB_ID": "17", "SLURMD_NODENAME": "n1"}
    expect(hook("prolog", **here) == 0, "the prolog of a job without GPUs")
    expect(set(states(node).values()) == {"owned"}, states(node))
    expect(hook("epilog", **here) == 0, "its epilog")
    expect(set(states(node).values()) == {"cooling"}, states(node))
    # With GPUs: which of them, and what becomes of each answer.
    said = place.path("said")
    fake = place.path("weir")
    with open(fake, "w", encoding="ascii") as out:
        out.write('#!/bin/sh\necho "$@" >> %s\nexit ${ANSWER:-0}\n' % said)
    os.chmod(fake, 0o755)
    for name, gpus, wanted in (("prolog", "0,2", ["reclaim cuda:0", "reclaim cuda:2"]), ("epilog", "0,2", ["release"]),
                               ("prolog", "GPU-8932", ["reclaim cuda"]), ("prolog", "", ["reclaim cpu"])):
        open(said, "w", encoding="ascii").close()
        expect(hook(name, WEIR=fake, SLURM_JOB_GPUS=gpus, SLURM_JOB_ID="17") == 0, name)
        with open(said, encoding="ascii") as text:
            got = text.read().splitlines()
        expect(got == [line + " --by slurm-17" for line in wanted], "%s of %r said %r" % (name, gpus, got))
    for answer, code in (("3", 0), ("4", 0), ("6", 6), ("1", 1)):
        expect(hook("prolog", WEIR=fake, SLURM_JOB_GPUS="0", ANSWER=answer) == code, "answer %s" % answer)
        expect(hook("epilog", WEIR=fake, SLURM_JOB_GPUS="0", ANSWER=answer) == 0, "answer %s" % answer)


def a_slurm_job_that_ends_takes_no_claim_of_others_along(place):
    node = place.mesh("ashburn")["ashburn"]
    job = lambda number: {"WEIR": place.program, "WEIR_NODE": node.socket, "SLURM_JOB_ID": number}
    by = lambda: sorted(claim["by"] for claim in devices(node)["cpu:0"]["claims"])
    node.weir("reclaim", "cpu:0", "--for", "2h")
    hook("prolog", **job("17"))
    hook("prolog", **job("18"))
    expect(by() == ["", "slurm-17", "slurm-18"], devices(node))
    hook("epilog", **job("17"))
    expect(by() == ["", "slurm-18"] and set(states(node).values()) == {"owned"}, devices(node))
    expect("(command: slurm-18)" in node.weir("nodes", "-v").out, node.weir("nodes", "-v").out)
    said = node.weir("release").out
    expect("cpu:0 stays its owner's: command of slurm-18" in said, said)
    node.weir("reclaim", "cpu:0", "--for", "2h")
    node.kill()
    node.start()
    expect(by() == ["", "slurm-18"] and set(states(node).values()) == {"owned"}, devices(node))
    hook("epilog", **job("18"))
    expect(states(node) == {"cpu:0": "owned", "cpu:1": "cooling"}, states(node))
    expect(devices(node)["cpu:0"]["until"], devices(node))
    node.weir("release", "cpu:0")
    expect(states(node)["cpu:0"] == "cooling", states(node))
    expect("letters" in node.weir("reclaim", "--by", "a job", code=2).error, "a name with a space")


def cores_that_others_use_are_not_lent(place):
    node = place.mesh("ashburn", work__cpu_slots="auto")["ashburn"]
    cores = len(os.sched_getaffinity(0))
    expect(len(devices(node)) == cores, devices(node))
    for _ in range(2 * cores):
        place.start(["/bin/sh", "-c", "while :; do :; done"])
    wait_until(lambda: "the last core is left to others: %s" % devices(node),
               lambda: devices(node)["cpu:%d" % (cores - 1)]["state"] == "owned", 60)
    expect(devices(node)["cpu:%d" % (cores - 1)]["cause"] == "load", devices(node))


def in_the_owners_hours_nothing_is_lent(place):
    node = place.mesh("ashburn", work__owner="sun-sat")["ashburn"]
    expect(set(states(node).values()) == {"owned"}, states(node))
    expect(devices(node)["cpu:0"]["cause"] == "schedule" and node.nodes()["ashburn"]["slots"] == 0, devices(node))
    expect("stays its owner's: schedule" in node.weir("release").out, "a release ends the owner's hours")
    # They are over after a restart with others, in which this minute is none: that of the other half of the week.
    now = time.localtime()
    other = "thu-sat" if now.tm_wday in (6, 0, 1) else "sun-tue"
    node.kill()
    node.settings["work.owner"] = other + " 08:00-08:01"
    node.start()
    expect(set(states(node).values()) == {"spare"}, states(node))
    settings = place.path("weir.conf")
    with open(settings, "w", encoding="ascii") as out:
        out.write("[work]\nprice_micro = 1\nowner = mon-fri 08:00-25:00\n")
    said = place.weir("config", "check", settings, code=2).error
    expect(settings + ":3: 'mon-fri 08:00-25:00' is not good for owner in [work]" in said, said)


def mistakes_are_told(place):
    node = place.mesh("ashburn")["ashburn"]
    cases = [(("reclaim", "cuda:7"), 3, "there are cpu:0, cpu:1"), (("release", "gpu"), 3, "no device 'gpu'"),
             (("reclaim", "--for", "soon"), 2, "such as 30m or 2h"), (("reclaim", "--for", "0s"), 2, "such as"),
             (("reclaim", "a", "b"), 2, "weir reclaim --help")]
    for arguments, code, text in cases:
        answer = node.weir(*arguments, code=code)
        expect(text in answer.error and answer.error.count("\n") <= 2, answer)
    expect(set(states(node).values()) == {"spare"}, states(node))


def a_node_that_lends_nothing_says_so(place):
    node = Node(place, "ashburn", work__cpu_slots=0)
    place.weir("init", "--federation", "rivers", "--site", "ashburn", "--name", "ashburn", "--data", node.data)
    node.start()
    expect("lends no device" in node.weir("reclaim", code=3).error, "reclaim without devices")


LONG_TESTS = [cores_that_others_use_are_not_lent]
TESTS = [in_the_owners_hours_nothing_is_lent, slurm_hooks_take_a_jobs_devices_and_give_them_again,
         a_slurm_job_that_ends_takes_no_claim_of_others_along, what_a_device_does_and_who_has_it_is_told_everywhere,
         large_inputs_that_workers_hold_are_told_everywhere, a_claimed_device_is_free_at_once_and_its_shards_go_back, work_goes_on_elsewhere_and_comes_again_after_a_release,
         a_worker_that_does_not_listen_is_killed_after_the_grace,
         a_claim_outlives_a_restart_and_ends_when_it_was_said_to, a_measurement_ends_with_its_node, mistakes_are_told, a_node_that_lends_nothing_says_so]
