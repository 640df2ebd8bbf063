"""Jobs outlive their homes: journals of several copies on real nodes."""
import json
import os
import re
import shutil
import signal
import subprocess
import time

import numpy

from harness import api_answer, expect, wait_until
from kernel_test import ENTRY, need_compiler, write_kernel
from mesh_test import SPIN, THREE, expect_marks, fill_disk, get, metric, save_words, small_disk, spin_marks, wait_running
from refusal_test import COLUMNS, FILE_BLOB_BYTES, rot, save

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


def submit_by_ones(home):
    """As LONG_SPIN says, in bundles of one shard, so that an executor's bundles are shards."""
    return home.call("submit", kernel="spin", items=LONG_ITEMS, shard_items=1, bundle_shards=1, params=["us=100000"], cache="off",
                     replicas=3)["job"]


def left_to_hand_out(home, others, job):
    """How many of its shards are neither done nor in the hands of the others, by their own word; and how many those have."""
    done = home.job(job)["done"]
    in_hand = 0
    for node in others:
        told = get(node, "/metrics")[1]
        in_hand += sum(int(re.search(r"^weir_bundles_%s (\d+)" % what, told, re.M).group(1)) for what in ("running", "waiting"))
    expect(in_hand > 0, "no other node has any")
    return LONG_ITEMS - done - in_hand, in_hand


def expect_nothing_ran_again(others, left):
    """The home that followed has handed out no more than was left, so nothing that the others had. An executor that takes
    nothing for a grant that ran out (`requeued_expired`) has run nothing either."""
    core = {node.name: node.counters("core") for node in others}
    handed_out = sum(counters["assigns"] - counters["requeued_expired"] for counters in core.values())
    expect(0 < handed_out <= left, "%d shards were handed out, and %d were left: %s" % (
        handed_out, left, {name: {key: value for key, value in counters.items() if value and re.search(
            "assigns|requeued|takeovers|adoptions|leases|copies", key)} for name, counters in core.items()}))


def a_job_outlives_its_home(place):
    """SIGKILL of the home in the middle of a job: another node goes on with it, and what runs is not run again."""
    mesh = place.mesh(*FIVE)
    home = mesh["ashburn"]
    others = [mesh[name] for name in FIVE[1:]]
    job = submit_by_ones(home)
    wait_running(home, mesh["berlin"], job)
    left, in_hand = left_to_hand_out(home, others, job)
    home.kill()
    next_home = wait_taken_over(others, job)
    done = next_home.wait_job(job, timeout_s=120)
    expect(done["done"] == LONG_ITEMS and done["shards"] == LONG_ITEMS, "shards are missing: %s" % done)
    # The new home listens for 5 s, and of executors that a busy machine keeps waiting some report later.
    expect_nothing_ran_again(others, left + in_hand // 2)
    for node in others:
        expect_marks(node, job, LONG_ITEMS)
    home.start()
    home.wait_states({name: "up" for name in FIVE}, 60)
    expect_marks(home, job, LONG_ITEMS)
    expect(home.job(job)["home"] != "ashburn", "the old home says that the job is its own: %s" % home.job(job))


def any_node_tells_of_a_job(place):
    """jobs, explain, logs -f, cancel and the outputs, by id and by its first digits, at nodes that have nothing of it."""
    mesh = place.mesh(*THREE)
    home, elsewhere = mesh["ashburn"], mesh["berlin"]
    job = home.submit_detached("spin", *SPIN, "--replicas", "1")
    expect(elsewhere.job(job)["home"] == "ashburn", elsewhere.job(job))
    expect(elsewhere.weir("jobs", job[:12], "--json").json["job"]["id"] == job, "its first digits don't do")
    lines = mesh["cairo"].weir("logs", job, "-f", timeout_s=90).out
    expect("submitted by tenant ashburn" in lines and lines.rstrip().endswith("done"), lines)
    expect("60 of 60 shards done" in elsewhere.weir("explain", job).out, elsewhere.weir("explain", job))
    expect_marks(elsewhere, job)
    answer = elsewhere.weir("submit", "noop", "--input", "data=job:%s/mark" % job, "--split", "data", code=3)
    expect("its home at berlin" in answer.error and "blob get" in answer.error, answer)
    blob = elsewhere.weir("submit", "--reattach", job).out.split()[1]
    elsewhere.weir("blob", "get", blob[len("blob:"):], place.path("marks"))
    elsewhere.weir("submit", "noop", "--input", "data=" + blob, "--split", "data", "--format", "data=raw:4")
    long = home.submit_detached("spin", "--items", "500", "--shard-items", "1", "--param", "us=50000", "--cache", "off",
                                "--replicas", "1")
    answer = elsewhere.weir("cancel", long, code=None)
    expect(answer.code == 5, "another site may cancel: %s" % answer)
    home.weir("cancel", long)
    elsewhere.wait_job(long, "cancelled")
    rows = {row["id"]: row for row in mesh["cairo"].weir("jobs", "--mesh", "--json").json["jobs"]}
    expect(rows[job]["home"] == "ashburn" and rows[long]["state"] == "cancelled", rows)
    unfinished = elsewhere.submit_detached("spin", *LONG_SPIN, "--replicas", "1")
    later = home.submit_detached("spin", "--items", "1", "--replicas", "1")
    home.wait_job(later)
    rows = mesh["cairo"].weir("jobs", "--mesh", "--json", "--limit", "3").json
    order = [row["id"] for row in rows["jobs"]]
    expect(order == [unfinished, later, long] and rows["matching"] == 5 and rows["silent"] == 0, rows)
    elsewhere.weir("cancel", unfinished)
    answer = elsewhere.weir("jobs", "ab" * 32, code=3)
    expect("any node that it reaches" in answer.error, answer)


def a_key_is_one_job_wherever_it_is_submitted(place):
    """The same people submit under one key at three nodes at the same instant, then another job under it."""
    mesh = place.mesh(*THREE, **{"tenants__uid-%d" % os.getuid(): "geology"})
    for round_number in range(3):
        submit = ("spin", "--items", "4", "--key", "monday-%d" % round_number, "--cache", "off")
        at_once = [place.start([place.program, "submit", submit[0], "--node", node.socket, "--detach", *submit[1:]],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for node in mesh.values()]
        answers = [process.communicate(timeout=60) for process in at_once]
        expect(all(process.returncode == 0 for process in at_once), "a submit was refused: %s" % (answers,))
        ids = {out.strip() for out, _ in answers}
        expect(len(ids) == 1, "one key made several jobs: %s" % ids)
        job = ids.pop()
        expect(len(homes(mesh.values(), job)) == 1, "the job has several homes: %s" % homes(mesh.values(), job))
        mesh["cairo"].wait_job(job)
        again = mesh["berlin"].weir("submit", *submit, "--detach", "--json").json
        expect(again["existing"] and again["job"] == job, again)
    for node in mesh.values():
        for asked in (("4", "--param", "us=7"), ("5",)):
            other = node.weir("submit", "spin", "--key", "monday-0", "--detach", "--items", *asked, code=2)
            expect("names another job" in other.error, other)


def waits_go_on_at_the_next_home(place):
    """`submit --reattach` and `logs -f` at a node that is not the home, through the death of the home."""
    mesh = place.mesh(*FIVE)
    home = mesh["ashburn"]
    job = home.submit_detached("spin", *LONG_SPIN)
    keepers = {row["name"] for row in home.job(job)["keepers"]}
    waiter = next(mesh[name] for name in FIVE if name not in keepers)
    path = place.path("marks.npy")
    waits = place.start([place.program, "submit", "--node", waiter.socket, "--reattach", job, "--output", "mark=" + path],
                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    follows = place.start([place.program, "logs", "--node", waiter.socket, job, "-f"], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    wait_running(home, mesh["berlin"], job)
    home.kill()
    out = waits.communicate(timeout=240)[0]
    expect(waits.returncode == 0, "the wait ended with %d: %r" % (waits.returncode, out))
    expect(numpy.array_equal(numpy.load(path).reshape(-1), spin_marks(LONG_ITEMS)), "the bytes are wrong")
    lines = follows.communicate(timeout=60)[0].decode()
    expect(lines.rstrip().endswith("done"), lines[-500:])


def a_job_without_a_majority_waits_for_it(place):
    """Both followers killed: nothing is acknowledged, the home says so, and it goes on by itself when one is back."""
    mesh = place.mesh(*THREE)
    home = mesh["ashburn"]
    job = home.submit_detached("spin", *LONG_SPIN, "--replicas", "3")
    wait_running(home, mesh["berlin"], job)
    for name in ("berlin", "cairo"):
        mesh[name].kill()
    wait_until(lambda: "the job is stalled: %s" % home.job(job), lambda: home.job(job).get("stalled"), 20)
    expect("majority" in home.job(job)["stalled"], home.job(job))
    listed = home.weir("jobs").out
    expect("stalled" in listed, listed)
    mesh["berlin"].start()
    home.wait_job(job, timeout_s=120)
    expect_marks(home, job, LONG_ITEMS)


SAYS_SO_S = 10


def a_home_in_a_minority_says_so(place):
    """Two of three hang: within 10 s of that `weir jobs` at the home says *stalled*, not before anything is amiss, and no
    more once they go on."""
    mesh = place.mesh(*THREE)
    home, others = mesh["ashburn"], [mesh[name] for name in THREE[1:]]
    job = home.submit_detached("spin", *LONG_SPIN, "--replicas", "3")
    wait_running(home, mesh["berlin"], job)

    def stalled():
        return next(row for row in home.weir("jobs", "--json").json["jobs"] if row["id"] == job).get("stalled")
    expect(not stalled(), "it is said to be stalled before: %s" % stalled())
    for node in others:
        node.signal(signal.SIGSTOP)
    began = time.monotonic()
    wait_until("the home says so", stalled, 20)
    took_s = time.monotonic() - began
    expect(took_s <= SAYS_SO_S, "the home said so after %.1f s" % took_s)
    expect("majority" in stalled(), stalled())
    for node in others:
        node.signal(signal.SIGCONT)
    home.wait_job(job, timeout_s=120)


def a_cut_off_member_says_so(place):
    """Two of three lost, the home among them: the third one doesn't go on alone, and who asks it for the job is told so within
    10 s; a listing of all says it once the home is down there."""
    mesh = place.mesh(*THREE)
    home = mesh["ashburn"]
    job = home.submit_detached("spin", *LONG_SPIN, "--replicas", "3")
    wait_running(home, mesh["cairo"], job)
    home.kill()
    mesh["berlin"].kill()
    began = time.monotonic()
    answer = mesh["cairo"].weir("jobs", job, code=6)
    took_s = time.monotonic() - began
    expect("stalled" in answer.error and took_s <= SAYS_SO_S, "after %.1f s: %s" % (took_s, answer))
    mesh["cairo"].wait_states({"ashburn": "down", "berlin": "down"}, 30)
    answer = mesh["cairo"].weir("jobs", job, code=6)
    expect("stalled" in answer.error and "majority" in answer.error, answer)
    listed = mesh["cairo"].weir("jobs", "--mesh", "--json").json
    expect([row["id"] for row in listed["jobs"]] == [job] and listed["silent"] == 2, listed)
    row = listed["jobs"][0]
    expect("out of reach" in row["stalled"] and row["shards"] == LONG_ITEMS and row["done"] is None, row)
    listed = mesh["cairo"].weir("jobs", "--mesh")
    expect("stalled" in listed.out and "2 nodes did not answer" in listed.out, listed)
    mesh["berlin"].start()
    expect_marks(mesh["cairo"], job, LONG_ITEMS)
    expect_marks(mesh["berlin"], job, LONG_ITEMS)


def finish_everywhere(mesh, job):
    """Waits until all members of the mesh, which all keep its journal, know that the job is over."""
    mesh["ashburn"].wait_job(job)
    wait_until("all members know that it is over", lambda: all(
        "job=%s journal=over whole=yes" % job[:8] in node.log_text() for node in mesh.values()), 30)


def listed(node, *options):
    """What `weir jobs --mesh` says at the node of each job, as often as it does."""
    return [(row["id"], row["state"], row["home"]) for row in
            node.weir("jobs", "--mesh", "--json", *options).json["jobs"]]


def a_finished_job_of_a_lost_home_is_listed_once(place):
    """By those that keep its journal, over their restart too; not while its home is there, nor twice when another node made
    its outputs anew meanwhile."""
    mesh = place.mesh(*THREE)
    home, others = mesh["ashburn"], [mesh[name] for name in THREE[1:]]
    job = home.submit_detached("spin", *SPIN, "--replicas", "3")
    finish_everywhere(mesh, job)
    row = (job, "done", "ashburn")
    expect(listed(others[0]) == [row], listed(others[0]))
    home.kill()
    for node in others:
        node.wait_states({"ashburn": "down"}, 30)
        expect(listed(node) == [row] and listed(node, "--state", "done") == [row], listed(node))
        expect(listed(node, "--state", "running") == [], listed(node, "--state", "running"))
        node.stop()
        node.start()
        node.wait_states({"ashburn": "down"}, 60)
        expect(listed(node) == [row], "after a restart: %s" % listed(node))
    told = others[0].weir("jobs", "--mesh", "--json").json
    expect(told["matching"] == told["total"] == 1 and told["jobs"][0]["done"] == told["jobs"][0]["shards"], told)
    expect_marks(others[0], job)
    for node in others:
        expect([one[:2] for one in listed(node)] == [row[:2]] and listed(node)[0][2] in THREE[1:], listed(node))
    home.start()
    for node in mesh.values():
        node.wait_states({name: "up" for name in THREE}, 60)
        told = node.weir("jobs", "--mesh", "--json").json
        expect([row["id"] for row in told["jobs"]] == [job] and told["total"] == told["matching"] == 1, told)


def a_keeper_that_was_away_is_asked_when_it_is_back(place):
    """The only other node that keeps a job is stopped while the folder is put back, and the asking is cut short by a SIGKILL:
    the job comes all the same."""
    mesh = place.mesh(*THREE)
    home = mesh["ashburn"]
    snapshots(place, list(mesh.values()))
    job = home.submit_detached("spin", "--items", "4", "--cache", "off", "--replicas", "2")
    home.wait_job(job)
    names = keepers_of(mesh.values(), job, 2)
    keeper, = (node for node in mesh.values() if node.name in names and node is not home)
    witness, = (node for node in mesh.values() if node.name not in names)
    keeper.stop()
    put_back(home, place.path("before", "ashburn"))
    expect("event=resync state=done jobs=0 asked=1 away=1" in home.log_text(), home.log_end())
    expect(home.nodes()["ashburn"]["note"] == "jobs back: 1 away", home.nodes()["ashburn"])
    home.kill()
    home.start()
    witness.wait_states({"ashburn": "up"}, 60)
    expect(not homes([home, witness], job), "somebody has it while its keeper is away")
    keeper.start()
    wait_until("it has the job again", lambda: homes([home], job), 60)
    expect(metric(home, "weir_finished_jobs_taken_back_total") == 1, "it counts %s" % metric(
        home, "weir_finished_jobs_taken_back_total"))
    wait_until("the note goes", lambda: home.nodes()["ashburn"]["note"] == "", 30)
    keeper.kill()
    expect_marks(home, job, 4)
    home.stop()
    place.weir("store", "check", "--data", home.data)


def ends_of(node, jobs):
    """The state of each, and what is said of it, as any client is told."""
    told = [node.weir("jobs", job, "--json").json["job"] for job in jobs]
    return [(row["state"], row.get("error", "")) for row in told]


def jobs_that_ended_badly_outlive_their_home(place):
    """What became of a job that failed or was cancelled is known when its home is gone, after restarts, and on a disk that
    was put back."""
    need_compiler(place)
    mesh = place.mesh(*THREE)
    home, others = mesh["ashburn"], [mesh[name] for name in THREE[1:]]
    snapshots(place, list(mesh.values()))
    bad = write_kernel(place, ENTRY % "  y[0] = w;")
    answer = home.weir("submit", *bad, "--replicas", "3", code=1, timeout_s=120)
    expect("bad.cu:3:10: error" in answer.error, str(answer))
    failed = home.call("jobs")["jobs"][0]["id"]
    cancelled = home.submit_detached("spin", *LONG_SPIN, "--replicas", "3")
    home.weir("cancel", cancelled)
    jobs = (failed, cancelled)
    ends = ends_of(home, jobs)
    expect([state for state, _ in ends] == ["failed", "cancelled"] and "bad.cu:3:10: error" in ends[0][1], ends)
    for job in jobs:
        keepers_of(mesh.values(), job, 3)
    home.kill()
    rows = {(failed, "failed", "ashburn"), (cancelled, "cancelled", "ashburn")}
    for node in others:
        node.wait_states({"ashburn": "down"}, 30)
        expect(set(listed(node)) == rows, listed(node))
        expect([row[0] for row in listed(node, "--state", "failed")] == [failed], listed(node, "--state", "failed"))
        node.stop()
        node.start()
        node.wait_states({"ashburn": "down"}, 60)
        expect(set(listed(node)) == rows, "after a restart: %s" % listed(node))
    others[0].wait_states({"cairo": "up"}, 60)
    put_back(others[1], place.path("before", "cairo"))
    for node in others:
        expect(ends_of(node, jobs) == ends, "%s: %s" % (node.name, ends_of(node, jobs)))
        again = node.weir("submit", "--reattach", failed, code=1, timeout_s=60)
        expect("bad.cu:3:10: error" in again.error, str(again))
    home.start()
    for node in mesh.values():
        node.wait_states({name: "up" for name in THREE}, 60)
        expect({row[:2] for row in listed(node)} == {row[:2] for row in rows} and len(listed(node)) == 2, listed(node))


def submit_many(node, count, replicas):
    """Cheap jobs, done; their ids, the newest first."""
    for _ in range(count):
        node.call("submit", kernel="spin", items=1, params=["us=0"], replicas=replicas)
    wait_until("all are done", lambda: [row["state"] for row in node.call("jobs")["jobs"]] == ["done"] * count, 90)
    rows = node.call("jobs")["jobs"]
    newest = [row["id"] for row in sorted(rows, key=lambda row: (-row["created_at"], row["id"]))]
    expect(len(newest) == count and newest == [row["id"] for row in rows], "they are not in order at their home")
    return newest


def all_jobs_of_the_mesh_are_listed(place):
    """More than a node tells at once, each once and in order; what is left out is said, also where ids alone are printed."""
    mesh = place.mesh("ashburn", "berlin")
    asked = mesh["berlin"]
    few = submit_many(asked, 3, 1)
    many = submit_many(mesh["ashburn"], 430, 1)
    told = asked.weir("jobs", "--mesh", "--json")
    expect([row["id"] for row in told.json["jobs"]] == many + few, "%d rows of %d jobs" % (len(told.json["jobs"]), 433))
    expect([told.json[key] for key in ("total", "matching", "left_out", "silent")] == [433, 433, 0, 0], told.json)
    ids = asked.weir("jobs", "--mesh", "-q")
    expect(ids.out.split() == many + few and not ids.error and not told.error, ids)
    limited = asked.weir("jobs", "--mesh", "--json", "--limit", "250")
    expect([row["id"] for row in limited.json["jobs"]] == many[:250] and limited.json["left_out"] == 183, limited)
    expect("250 of 433 jobs of the mesh; 183 left out" in limited.error, limited)
    ids = asked.weir("jobs", "--mesh", "-q", "--limit", "432")
    expect(ids.out.split() == (many + few)[:432] and "1 left out" in ids.error, ids)
    expect("18 of 433 jobs of the mesh; 415 left out" in asked.weir("jobs", "--mesh").out, "the table does not say so")
    expect(asked.weir("jobs", "--mesh", "--json", "--state", "failed").json["jobs"] == [], "failed jobs out of nowhere")
    mesh["ashburn"].kill()
    asked.wait_states({"ashburn": "down"}, 30)
    ids = asked.weir("jobs", "--mesh", "-q")
    expect(ids.out.split() == few and "1 node did not answer" in ids.error, ids)


def all_jobs_of_a_lost_home_are_listed(place):
    """More than one keeper of their journals tells at once, by one that keeps them and by one that asks it."""
    mesh = place.mesh(*THREE)
    home = mesh["ashburn"]
    many = submit_many(home, 150, 2)
    wait_until("all journals are over", lambda: sum(
        mesh[name].log_text().count("journal=over whole=yes") for name in THREE[1:]) >= len(many), 60)
    home.kill()
    for name in THREE[1:]:
        mesh[name].wait_states({"ashburn": "down"}, 30)
        told = mesh[name].weir("jobs", "--mesh", "--json").json
        expect(sorted(row["id"] for row in told["jobs"]) == sorted(many), "%d of %d" % (len(told["jobs"]), len(many)))
        expect(told["matching"] == len(many) and told["left_out"] == 0 and told["silent"] == 1, told)
        few = mesh[name].weir("jobs", "--mesh", "-q", "--limit", "20")
        expect(len(few.out.split()) == 20 and "left out" in few.error, few)


def a_finished_job_outlives_its_home(place):
    """The outputs are put together anew from the journal when the home of a finished job is lost."""
    mesh = place.mesh(*THREE)
    home = mesh["ashburn"]
    job = home.submit_detached("spin", *SPIN, "--replicas", "3")
    finish_everywhere(mesh, job)
    ended = home.job(job)["finished_at"]
    home.kill()
    for name in ("berlin", "cairo"):
        mesh[name].wait_states({"ashburn": "down"}, 30)
        expect_marks(mesh[name], job)
        again = mesh[name].job(job)["finished_at"] if job in {row["id"] for row in mesh[name].call("jobs")["jobs"]} else ended
        expect(abs(again - ended) < 1000, "it ended at %s, and is said to have at %s" % (ended, again))


def what_is_not_there_may_be_at_who_is_not(place):
    """A job of one copy and a blob, asked for elsewhere: there are none only where everybody has said so."""
    mesh = place.mesh("ashburn", "berlin")
    home, asked = mesh["ashburn"], mesh["berlin"]
    asked.weir("jobs", "ab" * 32, code=3)
    job = home.submit_detached("spin", "--items", "2", "--replicas", "1")
    home.wait_job(job)
    blob = home.job(job)["outputs"][0]["blob"]
    expect(not asked.weir("submit", "spin", "--items", "1", "--detach").error, "there is something to say of a job of two copies")
    home.kill()
    asked.wait_states({"ashburn": "down"}, 30)
    alone = asked.weir("submit", "spin", "--items", "5", "--cache", "off", "--detach")
    expect("no other node was up to keep the journal" in alone.error, alone)
    expect(not asked.weir("submit", "spin", "--items", "3", "--replicas", "1", "--detach").error, "it was asked for")
    for command in (("jobs", job), ("submit", "--reattach", job), ("blob", "get", blob, place.path("x")), ("blob", "stat", blob)):
        said = asked.weir(*command, code=6).error
        expect("ashburn, which does not answer, may have it" in said, said)


def fewer_copies_than_asked_for_are_refused(place):
    """By default a job is content with what there is, and says what it got."""
    mesh = place.mesh("ashburn", "berlin")
    answer = mesh["ashburn"].weir("submit", "spin", "--items", "2", "--replicas", "3", code=1)
    expect("too few nodes are up" in answer.error and "2 with this one" in answer.error, answer)
    rows = save(place, "rows.npy", numpy.zeros((4, 8), dtype=numpy.uint8))
    mesh["ashburn"].weir("submit", "noop", "--input", "data=" + rows, "--split", "data", "--replicas", "3", code=1)
    expect(not mesh["ashburn"].call("blob.ls")["blobs"], "an input was sent all the same")
    for wanted, got in (((), 2), (("--replicas", "2"), 2), (("--replicas", "1"), 1)):
        accepted = mesh["ashburn"].weir("submit", "spin", "--items", "2", "--cache", "off", "--detach", "--json",
                                        *wanted).json
        expect(accepted["replicas"] == got, accepted)
        mesh["ashburn"].wait_job(accepted["job"])


def a_submit_without_a_majority_says_what_it_waits_for(place):
    """Both others hang: two submits say so on standard error, one is interrupted; both jobs are taken once the others go on."""
    mesh = place.mesh(*THREE)
    home, others = mesh["ashburn"], [mesh[name] for name in THREE[1:]]
    for node in others:
        node.signal(signal.SIGSTOP)
    submits = [place.start([place.program, "submit", "spin", "--node", home.socket, "--items", "2", "--cache", "off",
                            "--detach", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
               for _ in range(2)]
    notes = [process.stderr.readline() for process in submits]
    expect(all("2 of the 3 nodes that keep its journal" in note and "Ctrl-C leaves it waiting" in note for note in notes),
           notes)
    submits[1].send_signal(signal.SIGINT)
    out, error = submits[1].communicate(timeout=20)
    expect(submits[1].returncode == 130 and not out and "weir cancel" in error, (submits[1].returncode, out, error))
    job = re.search(r"before job ([0-9a-f]{8}) was accepted", error).group(1)
    for node in others:
        node.signal(signal.SIGCONT)
    out, error = submits[0].communicate(timeout=60)
    expect(submits[0].returncode == 0 and json.loads(out)["replicas"] == 3, (out, error))
    for one in (json.loads(out)["job"], next(row["id"] for row in home.call("jobs")["jobs"] if row["id"].startswith(job))):
        home.wait_job(one)


def a_cancel_ends_a_submit_that_waits_for_the_other_of_two(place):
    """The other node hangs and is then gone for ever: the job ends all the same, and for good."""
    mesh = place.mesh("ashburn", "berlin")
    home, other = mesh["ashburn"], mesh["berlin"]
    other.signal(signal.SIGSTOP)
    submit = place.start([place.program, "submit", "spin", "--node", home.socket, "--items", "2", "--cache", "off",
                          "--replicas", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    note = submit.stderr.readline()
    expect("2 of the 2 nodes that keep its journal" in note, note)
    job = re.search(r"job ([0-9a-f]{8}) is not accepted yet", note).group(1)
    home.weir("cancel", job)
    submit.communicate(timeout=20)
    expect(submit.returncode == 1, "the submit ended with %s" % submit.returncode)
    other.kill()
    expect(home.job(job)["state"] == "cancelled", home.job(job))
    home.stop()
    home.start()
    expect(home.job(job)["state"] == "cancelled", home.job(job))


def a_stopped_home_hands_its_jobs_over(place):
    """SIGTERM in the middle of a job: it goes on at another node without waiting for a verdict, and nothing runs again."""
    mesh = place.mesh(*THREE)
    home, others = mesh["ashburn"], [mesh[name] for name in THREE[1:]]
    job = submit_by_ones(home)
    wait_running(home, mesh["berlin"], job)
    left, _ = left_to_hand_out(home, others, job)
    expect(home.stop() == 0, "it ended with %s:\n%s" % (home.process.returncode, home.log_end()))
    done = mesh["cairo"].wait_job(job, timeout_s=120)
    expect(done["home"] != "ashburn", done)
    expect_nothing_ran_again(others, left)
    for name in ("berlin", "cairo"):
        expect_marks(mesh[name], job, LONG_ITEMS)


def a_drained_home_hands_its_jobs_over(place):
    mesh = place.mesh(*THREE)
    home = mesh["ashburn"]
    job = home.submit_detached("spin", *LONG_SPIN, "--replicas", "3")
    wait_running(home, mesh["berlin"], job)
    home.weir("drain", timeout_s=90)
    expect(home.wait_end() == 0, "drain ended with %s" % home.process.returncode)
    expect_marks(mesh["cairo"], job, LONG_ITEMS)


def finished_jobs_outlive_all_who_kept_them(place):
    """All three drain, one after the other: the last ones hand the job to who is left. So does who alone kept one."""
    mesh = place.mesh(*FIVE[:4])
    home = mesh["ashburn"]
    job = home.submit_detached("spin", "--items", "20", "--shard-items", "1", "--cache", "off", "--replicas", "3")
    alone = home.submit_detached("spin", "--items", "5", "--replicas", "1")
    home.wait_job(job)
    home.wait_job(alone)
    keepers = keepers_of(list(mesh.values()), job, 3)
    last = next(node for name, node in mesh.items() if name not in keepers)
    once = repeated(home, items=7).json["job"]
    wait_until("two others keep it", lambda: home.job(once)["replicas"] == 3)
    failing = home.weir("submit", "spin", "--items", "100", "--param", "us=1000000", "--replicas", "1", "--detach").out.strip()
    home.weir("cancel", failing)
    for node in [home] + [mesh[name] for name in sorted(keepers - {"ashburn"})]:
        expect("drained" in node.weir("drain", timeout_s=90).out, "it was not drained")
        node.wait_end()
    expect("event=handover state=done jobs=2 kept_by_nobody_else=0" in home.log_text(), home.log_end())
    expect_marks(last, job, 20)
    expect_marks(last, alone, 5)
    expect_marks(last, once, 7)
    expect(not any("kept_by_nobody_else=1" in node.log_text() for node in mesh.values()), "a job went with its keeper")
    expect(last.job(failing)["state"] == "cancelled", last.job(failing))
    said = last.weir("drain", timeout_s=90)
    expect("no other node took 4 finished jobs: they are on this node's disk alone" in said.error, said)
    last.wait_end()
    place.weir("store", "check", "--data", last.data)


def a_job_that_another_took_over_is_listed_when_its_home_is_back(place):
    """Its first home died before all knew that it was over; it has no part in it any more but a copy."""
    mesh = place.mesh(*FIVE[:4])
    home = mesh["ashburn"]
    job = home.submit_detached("spin", "--items", "20", "--shard-items", "1", "--cache", "off", "--replicas", "3")
    home.wait_job(job)
    home.kill()
    mesh["berlin"].wait_states({"ashburn": "down"}, 30)
    for node in [mesh[name] for name in FIVE[1:4]]:
        expect_marks(node, job, 20)
    home.start()
    for node in mesh.values():
        node.wait_states({name: "up" for name in FIVE[:4]}, 30)
        wait_until("%s lists it" % node.name, lambda node=node: [row["id"] for row in node.weir("jobs", "--mesh", "--json").json["jobs"]] == [job], 15)


def finished_jobs_outlive_all_who_kept_them_at_once(place):
    """The three drain at the same time: none counts on another that leaves."""
    mesh = place.mesh(*FIVE[:4])
    home = mesh["ashburn"]
    jobs = [home.submit_detached("spin", "--items", str(20 + i), "--shard-items", "1", "--cache", "off", "--replicas", "3") for i in range(5)]
    for job in jobs:
        home.wait_job(job)
        keepers_of(list(mesh.values()), job, 3)
    leaving = [mesh[name] for name in FIVE[:3]]
    drains = [place.start([place.program, "drain", "--node", node.socket], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
              for node in leaving]
    for draining in drains:
        expect(draining.wait(90) == 0, draining.stderr.read())
    for node in leaving:
        node.wait_end()
    for i, job in enumerate(jobs):
        expect_marks(mesh["dublin"], job, 20 + i)


def finished_jobs_are_handed_on_when_keepers_are_revoked(place):
    """Two of the three, one after the other, and without a word to the third: it finds others, at last the only one."""
    mesh = place.mesh(*FIVE[:4])
    home = mesh["ashburn"]
    job = home.submit_detached("spin", "--items", "20", "--shard-items", "1", "--cache", "off", "--replicas", "3")
    home.wait_job(job)
    keepers = keepers_of(list(mesh.values()), job, 3)
    last = next(node for name, node in mesh.items() if name not in keepers)
    first, second = sorted(keepers - {"ashburn"})
    home.weir("revoke", first, "--reason", "test")
    wait_until("it is handed on", lambda: "event=handover state=done jobs=1 kept_by_nobody_else=0" in home.log_text(), 30)
    expect({row["name"] for row in home.job(job)["keepers"]} == {"ashburn", second, last.name}, home.job(job))
    mesh[second].kill()
    home.kill()
    last.wait_states({"ashburn": "down", second: "down"}, 40)
    expect_marks(last, job, 20)


def a_follower_without_room_holds_up_nobody(place):
    """Its disk is full: it holds nothing new, the other two are a majority; with room again it catches up."""
    small_disk(place, "berlin", "24m")
    mesh = place.mesh(*THREE)
    home = mesh["ashburn"]
    ballast = fill_disk(place, "berlin", 0)
    words = save_words(place, 16384)
    submit = ("embed", "--input", "text=" + words, "--split", "text", "--shard-items", "512", "--cache", "off")
    for _ in range(3):
        done = home.submit(*submit, "--json").json
        expect(done["state"] == "done", done)
    last = done["id"]
    os.unlink(ballast)
    home.wait_job(last)
    wait_until("berlin lends again", lambda: not home.nodes()["berlin"]["fault"], 30)


def large_inputs_and_outputs_outlive_the_home(place):
    """Rows and results that travel as blobs are at a majority before they are acknowledged: nothing is lost with the home."""
    mesh = place.mesh(*FIVE)
    home = mesh["ashburn"]
    draw = numpy.random.default_rng(7)
    a = draw.integers(-127, 128, (4096, 512)).astype(numpy.float32)
    b = draw.integers(-127, 128, (512, 2048)).astype(numpy.float32)
    for name, array in (("a", a), ("b", b)):
        numpy.save(place.path(name + ".npy"), array)
    job = home.submit_detached("matmul", "--input", "a=" + place.path("a.npy"), "--split", "a", "--input",
                               "b=" + place.path("b.npy"), "--shard-items", "16", "--cache", "off", "--replicas", "3")
    wait_until("some shards are done", lambda: home.job(job)["done"] > 2, 90)
    home.kill()
    others = [mesh[name] for name in FIVE[1:]]
    next_home = wait_taken_over(others, job)
    next_home.wait_job(job, timeout_s=150)
    for node in others[:2]:
        path = place.path("c.npy")
        node.weir("submit", "--reattach", job, "--output", "c=" + path, timeout_s=90)
        expect(numpy.array_equal(numpy.load(path), a @ b), "the product is wrong at %s" % node.name)


def lend(node, slots):
    """Starts the node anew with so many slots."""
    node.kill()
    node.settings["work.cpu_slots"] = slots
    node.start()


def small_inputs_ride_in_the_journal(place):
    """No other node has the input as a blob when the home dies before anything ran: the new home has it from the journal."""
    mesh = place.mesh(*FIVE[:4], work__cpu_slots=0)
    home = mesh["ashburn"]
    rows = numpy.random.default_rng(5).integers(0, 256, (40, 200), dtype=numpy.uint8)
    job = home.submit_detached("noop", "--input", "data=" + save(place, "rows.npy", rows), "--split", "data",
                               "--shard-items", "1", "--cache", "off", "--replicas", "3")
    told = home.job(job)
    blob, keepers = told["inputs"][0]["blob"], {row["name"] for row in told["keepers"]}
    others = [node for name, node in mesh.items() if name != "ashburn"]
    for node in others:
        expect(not any(row["blob"] == blob for row in node.call("blob.ls")["blobs"]), 
               "%s has the input" % node.name)
    home.kill()
    next_home = wait_taken_over(others, job)
    expect(any(row["blob"] == blob for row in next_home.call("blob.ls")["blobs"]), "the new home made no blob of it")
    worker = next(node for node in others if node.name not in keepers)
    lend(worker, 1)
    next_home.wait_job(job)
    path = place.path("sums.npy")
    next_home.weir("submit", "--reattach", job, "--output", "sum=" + path, timeout_s=90)
    sums = numpy.full(len(rows), 0xCBF29CE484222325, dtype=numpy.uint64)
    for column in range(rows.shape[1]):
        sums = (sums ^ rows[:, column]) * numpy.uint64(0x100000001B3)
    expect(numpy.array_equal(numpy.load(path).reshape(-1), sums), "the sums are wrong")


def a_takeover_on_a_full_disk_waits_for_room(place):
    """Its new home has no room for what the job needs: it says so, and goes on by itself once there is some."""
    for name in ("berlin", "cairo"):
        small_disk(place, name, "24m")
    mesh = place.mesh(*THREE, work__cpu_slots=0)
    home = mesh["ashburn"]
    rows = numpy.arange(40 * 8, dtype=numpy.uint64).astype(numpy.uint8).reshape(-1, 8)
    job = home.submit_detached("noop", "--input", "data=" + save(place, "rows.npy", rows), "--split", "data",
                               "--shard-items", "1", "--cache", "off", "--replicas", "3")
    others = [mesh["berlin"], mesh["cairo"]]
    for node in others:
        wait_until("%s holds the job" % node.name, lambda: node.call("where", job=job)["jobs"])
    ballast = [fill_disk(place, node.name, 16384) for node in others]
    home.kill()
    wait_until("the new home says what it lacks",
               lambda: any("it is tried again: an input cannot be stored" in node.log_text() for node in others), 60)
    for path in ballast:
        os.unlink(path)
    next_home = wait_taken_over(others, job, 60)
    lend(next(node for node in others if node is not next_home), 1)
    next_home.wait_job(job, timeout_s=60)


def a_disk_that_was_put_back_is_named(place):
    """A member's data of an hour ago: its node says so, and takes part again once its copies are brought up."""
    mesh = place.mesh(*THREE)
    home, member = mesh["ashburn"], mesh["berlin"]
    member.kill()
    shutil.copytree(member.data, place.path("before"))
    member.start()
    home.wait_states({name: "up" for name in THREE}, 60)
    job = home.submit_detached("spin", *SPIN, "--replicas", "3")
    home.wait_job(job, timeout_s=90)
    wait_until("the member holds the job", lambda: member.call("where", job=job)["jobs"])
    expect("state=put_back" not in member.log_text(), member.log_end())
    member.kill()
    shutil.rmtree(member.data)
    shutil.move(place.path("before"), member.data)
    member.start()
    wait_until("it says that its disk was put back", lambda: "event=disk state=put_back" in member.log_text(), 30)
    home.wait_states({name: "up" for name in THREE}, 60)
    again = home.submit_detached("spin", "--items", "2", "--cache", "off", "--replicas", "3")
    home.wait_job(again)


def put_back(node, snapshot, seen_by=None):
    """The node's folder becomes what it was, perhaps once that other has seen it down; waits until it has asked for what it
    forgot, and has what may be had."""
    node.kill()
    shutil.rmtree(node.data)
    shutil.copytree(snapshot, node.data)
    if seen_by:
        seen_by.wait_states({node.name: "down"}, 30)
    before = node.log_text().count("event=resync state=done")
    node.start()
    if seen_by:
        seen_by.wait_states({node.name: "up"}, 3)  # its first greeting is refused: it is of an older process
    wait_until("%s has asked back what its disk forgot" % node.name,
               lambda: node.log_text().count("event=resync state=done") > before, 60)


def snapshots(place, nodes):
    """Of each node's folder, as it is at rest; they run on."""
    for node in nodes:
        node.stop()
        shutil.copytree(node.data, place.path("before", node.name))
        node.start()
    for node in nodes:
        node.wait_states({other.name: "up" for other in nodes}, 60)


def keepers_of(nodes, job, count):
    """The names of the nodes that keep the job, once all of them know that it is over."""
    def over():
        found = {node.name for node in nodes if "job=%s journal=over whole=yes" % job[:8] in node.log_text()}
        return found if len(found) == count else None
    return wait_until("%d nodes know that %s is over" % (count, job[:8]), over, 30)


def finished_jobs_outlive_folders_that_are_put_back(place):
    """All that keep a finished job lose it, one after the other: each asks it back from the others, be they its home or not."""
    mesh = place.mesh(*THREE)
    nodes = [mesh[name] for name in THREE]
    snapshots(place, nodes)
    draw = numpy.random.default_rng(11)
    a = draw.integers(-127, 128, (512, 256)).astype(numpy.float32)
    b = draw.integers(-127, 128, (256, 1024)).astype(numpy.float32)
    product = nodes[0].submit_detached("matmul", "--input", "a=" + save(place, "a.npy", a), "--split", "a", "--input",
                                       "b=" + save(place, "b.npy", b), "--shard-items", "64", "--cache", "off",
                                       "--replicas", "3")
    spins = nodes[1].submit_detached("spin", "--items", "20", "--shard-items", "1", "--cache", "off", "--replicas", "3")
    pair = nodes[2].submit_detached("spin", "--items", "4", "--cache", "off", "--replicas", "2")
    # One of the outputs in its manifest, without the distances that it doesn't ask for.
    near = nodes[2].submit_detached("knn", "--input", "base=" + save(place, "base.npy", a.astype(numpy.int8)), "--input",
                                    "query=" + save(place, "query.npy", a[:20].astype(numpy.int8)), "--split", "query", "--param", "k=1",
                                    "--shard-items", "5", "--replicas", "3")
    for node, job in zip(nodes + nodes[2:], (product, spins, pair, near)):
        node.wait_job(job, timeout_s=90)
    for job in (product, spins, near):
        keepers_of(nodes, job, 3)
    kept = keepers_of(nodes, pair, 2)
    for node in nodes + nodes[:1]:
        put_back(node, place.path("before", node.name), nodes[1] if node is nodes[0] else None)
        expect(re.search(r"event=resync state=done jobs=%d asked=2 away=0" % (3 + (node.name in kept)), node.log_text()),
               node.log_text())
    rows = nodes[0].weir("jobs", "--mesh", "--json").json["jobs"]
    expect(sorted(row["id"] for row in rows) == sorted((product, spins, pair, near)) and {row["state"] for row in rows} == {"done"}, rows)
    for node in nodes:
        path = place.path("c.npy")
        node.weir("submit", "--reattach", product, "--output", "c=" + path, timeout_s=90)
        expect(numpy.array_equal(numpy.load(path), a @ b), "the product is wrong at %s" % node.name)
        path = place.path("near.npy")
        node.weir("submit", "--reattach", near, "--output", "index=" + path, timeout_s=90)
        expect((numpy.load(path).reshape(-1) == numpy.arange(20)).all(), "the nearest rows are wrong at %s" % node.name)
        expect_marks(node, spins, 20)
        expect_marks(node, pair, 4)
        node.stop()
        node.place.weir("store", "check", "--data", node.data)


def own_ids(node):
    return {row["id"] for row in node.call("jobs")["jobs"]}


def repeated(home, *options, items=20):
    """A job whose outputs were in the cache as a whole: it was done as soon as it was submitted."""
    run = ("submit", "spin", "--items", items, "--shard-items", "1", "--detach", "--json", *options)
    home.wait_job(home.weir(*run).json["job"])
    answer = home.weir(*run)
    expect(answer.json["state"] == "done", answer)
    return answer


def what_was_done_at_once_outlives_its_home(place):
    """Its outputs came from the cache, so it never had a journal: others keep it all the same before it is acknowledged."""
    mesh = place.mesh(*THREE)
    ashburn, berlin, cairo = (mesh[name] for name in THREE)
    answer = repeated(ashburn)
    job = answer.json["job"]
    expect(answer.json["replicas"] >= 2 and not answer.error, answer)  # that said so by then
    wait_until("two others keep it", lambda: ashburn.job(job)["replicas"] == 3)
    expect({keeper["name"] for keeper in ashburn.job(job)["keepers"]} == set(THREE), ashburn.job(job))
    for node in (berlin, cairo):
        expect(job not in own_ids(node), "%s lists a job of ashburn's as its own" % node.name)
        told = node.job(job)
        expect((told["home"], told["replicas"]) == ("ashburn", 3), "%s tells another story: %s" % (node.name, told))
    every = berlin.weir("jobs", "--mesh", "--json").json
    expect(sum(row["id"] == job for row in every["jobs"]) == 1 and every["total"] == 2, every)
    elsewhere = berlin.weir("submit", "spin", "--items", 20, "--shard-items", "1", "--detach", "--json").json
    expect(elsewhere["state"] == "done" and elsewhere["replicas"] >= 2, elsewhere)
    wait_until("two others keep that", lambda: berlin.job(elsewhere["job"])["replicas"] == 3)
    for lost in (ashburn, berlin):
        lost.kill()
        shutil.rmtree(os.path.join(lost.data, "blobs"), ignore_errors=True)
    cairo.wait_states({"ashburn": "down", "berlin": "down"}, 40)
    for one in (job, elsewhere["job"]):
        expect(cairo.job(one)["state"] == "done", cairo.job(one))
        expect_marks(cairo, one, 20)
    expect(own_ids(cairo) == {job, elsewhere["job"]}, cairo.weir("jobs").out)
    for op in ("keep", "finished", "kept"):
        answer = api_answer(cairo.socket, {"op": op, "job": job})
        expect(answer["exit"] == 2 and "nodes ask each other so" in answer["error"], answer)
    cairo.stop()
    place.weir("store", "check", "--data", cairo.data)


def copies_that_are_not_there_yet_are_not_told_of(place):
    """While another is asked to keep what was done at once, and after the home's death meanwhile."""
    mesh = place.mesh("ashburn", "berlin")
    ashburn, berlin = mesh["ashburn"], mesh["berlin"]
    repeated(ashburn)
    for dies in (False, True):
        berlin.signal(signal.SIGSTOP)
        command = [place.program, "submit", "spin", "--node", ashburn.socket, "--items", "20", "--shard-items", "1", "--detach", "--json"]
        process = place.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        note = process.stderr.readline()
        job = re.search(r"job ([0-9a-f]{8}) is not accepted yet: it is done already", note)
        expect(job and "not heard from yet: berlin" in note and "weir cancel" not in note, note)
        if dies:
            ashburn.kill()
            ashburn.start()
            berlin.signal(signal.SIGCONT)
            expect(ashburn.job(job[1])["replicas"] == 1, "it says that there is %s" % ashburn.job(job[1]))
        else:
            expect(ashburn.job(job[1])["replicas"] == 1, "it says that there is %s" % ashburn.job(job[1]))
            berlin.signal(signal.SIGCONT)
            out, error = process.communicate(timeout=30)
            expect(json.loads(out)["replicas"] == 2 and ashburn.job(job[1])["replicas"] == 2, (out, error))


def many_that_are_done_at_once_are_all_kept(place):
    """More at once than a keeper takes at a time: it says when it has no room, and is asked again."""
    mesh = place.mesh(*THREE)
    home = mesh["ashburn"]
    repeated(home)
    submits = [place.start([place.program, "submit", "spin", "--node", home.socket, "--items", "20", "--shard-items", "1", "--detach",
                            "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(60)]
    said = [submit.communicate(timeout=60) for submit in submits]
    for out, error in said:
        row = json.loads(out)
        expect(row["state"] == "done" and row["replicas"] >= 2 and not row["alone"], (out, error))
        wait_until("two others keep it", lambda: home.job(row["job"])["replicas"] == 3)
    home.kill()
    for name in ("berlin", "cairo"):
        mesh[name].wait_states({"ashburn": "down"}, 30)
    for out, _ in said:
        expect(any(json.loads(out)["job"] in own_ids(mesh[name]) for name in ("berlin", "cairo")), out)


def what_was_done_at_once_comes_back_to_a_disk_that_lost_it(place):
    mesh = place.mesh(*THREE)
    nodes = [mesh[name] for name in THREE]
    snapshots(place, nodes)
    job = repeated(nodes[0]).json["job"]
    wait_until("two others keep it", lambda: nodes[0].job(job)["replicas"] == 3)
    for node in nodes:
        put_back(node, place.path("before", node.name))
        expect(node.job(job)["state"] == "done", node.job(job))
        expect_marks(node, job, 20)
    for node in nodes:
        node.stop()
        place.weir("store", "check", "--data", node.data)


def what_was_done_at_once_waits_for_who_is_silent_and_then_asks_others(place):
    mesh = place.mesh("ashburn", "berlin")
    ashburn, berlin = mesh["ashburn"], mesh["berlin"]
    repeated(ashburn)
    one = ashburn.weir("submit", "spin", "--items", 20, "--shard-items", "1", "--detach", "--json", "--replicas", "1")
    expect(one.json["state"] == "done" and one.json["replicas"] == 1 and not one.error, one)
    berlin.signal(signal.SIGSTOP)
    alone = ashburn.weir("submit", "spin", "--items", 20, "--shard-items", "1", "--detach", "--json", timeout_s=60)
    berlin.signal(signal.SIGCONT)
    expect(alone.json["state"] == "done" and alone.json["replicas"] == 1, alone)
    expect("no other node took the finished job" in alone.error, alone)
    ashburn.kill()  # what it said of copies is on its disk
    ashburn.start()
    ashburn.wait_states({"berlin": "up"}, 40)
    expect(ashburn.job(alone.json["job"])["replicas"] == 1, ashburn.job(alone.json["job"]))
    ashburn.stop()
    place.weir("store", "check", "--data", ashburn.data)


def wait_alone(node, others):
    wait_until("%s sees the others down" % node.name,
               lambda: all(node.states().get(name) == "down" for name in others), 90)


def a_key_on_both_sides_of_a_cut_is_one_job(place):
    """Who reaches too few of those that remember keys takes nothing, and says so; the other side does, and that is the job."""
    mesh = place.mesh(*THREE, **{"tenants__uid-%d" % os.getuid(): "geology"})
    ashburn, berlin, cairo = (mesh[name] for name in THREE)
    submit = ("submit", "spin", "--items", "4", "--key", "monday", "--cache", "off", "--detach", "--json")
    for node in (berlin, cairo):
        node.signal(signal.SIGSTOP)
    wait_alone(ashburn, ("berlin", "cairo"))
    refused = ashburn.weir(*submit, code=6)
    expect("remember where this key was submitted" in refused.error, refused.error)
    expect(not ashburn.weir("jobs", "-q").out, "it has a job all the same")
    ashburn.signal(signal.SIGSTOP)
    for node in (berlin, cairo):
        node.signal(signal.SIGCONT)
    wait_until("the others see each other, and ashburn down",
               lambda: berlin.states().get("cairo") == "up" and berlin.states().get("ashburn") == "down", 90)
    job = berlin.weir(*submit).json["job"]
    ashburn.signal(signal.SIGCONT)
    cairo.wait_states({name: "up" for name in THREE}, 90)
    for node in mesh.values():
        again = node.weir(*submit).json
        expect(again["existing"] and again["job"] == job, "%s: %s" % (node.name, again))
    expect([row["id"] for row in cairo.weir("jobs", "--mesh", "--json").json["jobs"]] == [job], "there are several")
    berlin.wait_job(job)
    expect_marks(cairo, job, 4)


def a_key_whose_home_does_not_answer_is_not_taken_again(place):
    """Its home has the only copy of the journal: whether it has the job only it can say, be it stopped or dead. Once it says that
    it has none, it is taken."""
    mesh = place.mesh(*THREE, **{"tenants__uid-%d" % os.getuid(): "geology"})
    ashburn, berlin, cairo = (mesh[name] for name in THREE)
    submit = ("submit", "spin", "--items", "2", "--key", "tuesday", "--cache", "off", "--replicas", "1", "--detach", "--json")
    job = ashburn.weir(*submit).json["job"]
    ashburn.wait_job(job)
    for end in (ashburn.stop, ashburn.kill):
        end()
        refused = berlin.weir(*submit, code=6)
        expect("may be at ashburn, which does not answer" in refused.error, refused.error)
        if end == ashburn.stop:
            ashburn.start()
            again = wait_until("ashburn is seen again", lambda: berlin.weir(*submit, code=None).json
                               if berlin.states().get("ashburn") == "up" else None, 60)
            expect(again["existing"], again)
    shutil.rmtree(os.path.join(ashburn.data, "store"))
    ashburn.start()
    cairo.wait_states({name: "up" for name in THREE}, 90)
    taken = cairo.weir(*submit).json
    expect(not taken["existing"] and taken["job"] == job, taken)
    cairo.wait_job(job)
    again = berlin.weir(*submit).json
    expect(again["existing"], again)


def a_new_home_mends_what_its_disk_lost(place):
    """The input lies rotten on the disk of the one that takes over: it gets it anew from the other member."""
    mesh = place.mesh(*THREE)
    home = mesh["ashburn"]
    rows = numpy.random.default_rng(3).integers(-128, 128, (FILE_BLOB_BYTES // COLUMNS, COLUMNS), dtype=numpy.int8)
    job = home.submit_detached("knn", "--input", "base=" + save(place, "rows.npy", rows), "--input",
                               "query=" + save(place, "query.npy", rows[-400:]), "--split", "query", "--param", "k=1",
                               "--shard-items", "1", "--cache", "off", "--replicas", "3")
    before = home.job(job)
    blob = next(row["blob"] for row in before["inputs"] if row["name"] == "base")
    heir = mesh[before["keepers"][1]["name"]]
    wait_until("some shards are done", lambda: home.job(job)["done"] > 2, 90)
    with open(place.path("rows.npy"), "rb") as whole:
        rot(heir, blob, whole.read()[2000:2064])
    home.kill()
    others = [mesh[name] for name in THREE[1:]]
    for node in others:
        path = place.path("index.npy")
        node.weir("submit", "--reattach", job, "--output", "index=" + path, timeout_s=120)
        expect(numpy.load(path).shape[0] == 400, "rows are missing at %s" % node.name)
    if heir in homes(others, job):
        expect("refetched=yes" in heir.log_text(), "the heir never saw that its input is rotten:\n%s" % heir.log_end())


TESTS = [a_job_outlives_its_home, any_node_tells_of_a_job, a_key_is_one_job_wherever_it_is_submitted,
         a_key_on_both_sides_of_a_cut_is_one_job, a_key_whose_home_does_not_answer_is_not_taken_again,
         waits_go_on_at_the_next_home, a_job_without_a_majority_waits_for_it, a_home_in_a_minority_says_so, a_cut_off_member_says_so,
         a_finished_job_of_a_lost_home_is_listed_once, all_jobs_of_the_mesh_are_listed, all_jobs_of_a_lost_home_are_listed, a_finished_job_outlives_its_home, fewer_copies_than_asked_for_are_refused,
         a_submit_without_a_majority_says_what_it_waits_for,
         a_cancel_ends_a_submit_that_waits_for_the_other_of_two, a_stopped_home_hands_its_jobs_over,
         a_drained_home_hands_its_jobs_over, a_follower_without_room_holds_up_nobody,
         large_inputs_and_outputs_outlive_the_home, small_inputs_ride_in_the_journal,
         a_takeover_on_a_full_disk_waits_for_room, a_disk_that_was_put_back_is_named,
         finished_jobs_outlive_all_who_kept_them, finished_jobs_outlive_all_who_kept_them_at_once, a_job_that_another_took_over_is_listed_when_its_home_is_back, finished_jobs_are_handed_on_when_keepers_are_revoked, what_was_done_at_once_outlives_its_home, copies_that_are_not_there_yet_are_not_told_of, many_that_are_done_at_once_are_all_kept, what_was_done_at_once_comes_back_to_a_disk_that_lost_it,
         what_was_done_at_once_waits_for_who_is_silent_and_then_asks_others,
         finished_jobs_outlive_folders_that_are_put_back, a_keeper_that_was_away_is_asked_when_it_is_back, what_is_not_there_may_be_at_who_is_not, jobs_that_ended_badly_outlive_their_home, a_new_home_mends_what_its_disk_lost]
LONG_TESTS = []
