"""One site of five brings wrong results: it is caught, and everybody is told; a quorum never takes one."""
import contextlib
import os

import numpy

from harness import Failed, expect, wait_until
from kernel_test import ENTRY, HEAD, need_compiler, write_kernel
from mesh_test import spin_marks
from takeover_test import wait_taken_over

SITES = ("ashburn", "berlin", "cairo", "delhi", "essen")
LIAR = "berlin"
SPIN = ("--shard-items", "1")


def mesh_with_a_liar(place, **settings):
    """Five sites; the worker of one of them returns wrong bytes for every tenth shard or so (lying_worker.c)."""
    nodes = place.mesh(*SITES)
    liar = nodes[LIAR]
    liar.stop()
    liar.settings.update(settings)
    liar.settings["work.worker"] = os.path.join(place.build, "lying-worker")
    liar.start()
    nodes["ashburn"].wait_states({site: "up" for site in SITES})
    return nodes


def submit(node, items, *arguments, code=0, us=20000):
    """Returns the output's bytes, and the job as it ended."""
    path = node.place.path("out-%s.npy" % node.name)
    if "--cache" not in arguments:
        arguments += ("--cache", "off")
    answer = node.submit("spin", "--items", items, *SPIN, "--param", "us=%d" % us, "--output", "mark=" + path, "--json", *arguments, code=code,
                         timeout_s=120)
    with open(path, "rb") as file:
        return file.read(), answer


def row_of(node, site):
    return node.nodes()[site]


def right_bytes(node, items):
    """As this site's own devices have it."""
    return submit(node, items, "--local")[0]


def a_site_that_lies_is_caught_and_shown(place):
    nodes = mesh_with_a_liar(place)
    home = nodes["ashburn"]
    job = None
    for round_ in range(5):
        out, answer = submit(home, 100, "--verify", "spot=50%", "--key", "round-%d" % round_, code=None)
        job = answer.json
        if row_of(home, LIAR)["quarantined"]:
            break
    row = row_of(home, LIAR)
    expect(row["quarantined"], "after 500 shards %s is caught: %s" % (LIAR, row))
    expect(row["note"].startswith("job "), "its note says why: %s" % row)
    expect([site for site in SITES if row_of(home, site)["quarantined"]] == [LIAR], "nobody else is")
    told = home.call("nodes")
    slots = sum(row["slots"] for row in told["nodes"] if not row["quarantined"])
    expect(told["summary"]["slots"] == slots > 0, "slots of one in quarantine are nobody's: %s" % told["summary"])
    shown = home.weir("nodes").out
    expect("job " + row["note"].split()[1] in shown and all(len(line) <= 80 for line in shown.splitlines()), shown)
    expect(any(line.split()[:1] == [LIAR] and " quarantined " in line for line in shown.split("\n")), shown)
    story = home.weir("explain", job["id"]).out
    expect("%s was wrong about" % LIAR in " ".join(story.split()), story)
    expect((answer.code == 6) == (job["disputed"] > 0), "exit code 6 says that it is disputed: %s" % answer)
    expect(job["disputed"] == 0 or "disputed" in story, story)
    # It gets nothing more, and what is computed from now on is right.
    out, answer = submit(home, 100, "--verify", "none", "--key", "after")
    expect(all(share["name"] != LIAR for share in answer.json["by_node"]), "it gets no more work: %s" % answer.json)
    expect(out == right_bytes(home, 100), "what the others bring is right")
    # The others have not caught it: quarantine is each home's own.
    expect(not row_of(nodes["cairo"], LIAR)["quarantined"], "others judge for themselves")
    # It outlives a restart, and an operator lifts it.
    home.stop()
    home.start()
    home.wait_states({site: "up" for site in SITES})
    expect(row_of(home, LIAR)["quarantined"], "it is in quarantine after a restart")
    expect(row_of(home, LIAR)["note"].startswith("job "), "and its note is there")
    home.weir("nodes", "--forgive", "cairo", code=3)
    home.weir("nodes", "--forgive", LIAR)
    wait_until("it is forgiven", lambda: not row_of(home, LIAR)["quarantined"])


def what_a_liar_left_in_the_cache_is_void(place):
    nodes = mesh_with_a_liar(place)
    home = nodes["ashburn"]
    cached = ("--cache", "mesh")
    believed, _ = submit(home, 100, "--verify", "none", "--key", "first", *cached)
    right = right_bytes(home, 100)
    expect(believed != right, "unverified, some of it is wrong")
    again, answer = submit(home, 100, "--verify", "none", "--key", "second", *cached)
    expect(again == believed and answer.json["cached"] == 100, "and is used again: %s" % answer.json)
    answer = submit(home, 100, "--verify", "quorum", "--key", "third", *cached)[1]
    expect(answer.json["cached"] == 0, "nothing of it has passed a quorum: %s" % answer.json)
    expect(row_of(home, LIAR)["quarantined"], "who was wrong is caught")
    out, answer = submit(home, 100, "--verify", "none", "--key", "fourth", *cached)
    expect(out == right, "what the cache gives now is right: %s" % answer.json)
    home.weir("nodes", "--forgive", LIAR)
    wait_until("it is forgiven", lambda: not row_of(home, LIAR)["quarantined"])
    out, answer = submit(home, 100, "--verify", "none", "--key", "fifth", *cached)
    expect(out == right, "forgiven, its old results stay void: %s" % answer.json)


def a_quorum_takes_no_wrong_result(place):
    nodes = mesh_with_a_liar(place)
    home = nodes["cairo"]
    out, answer = submit(home, 60, "--verify", "quorum")
    expect(out == right_bytes(home, 60), "every committed result is right: %s" % answer.json)
    expect(answer.json["disputed"] == 0, "and none is disputed: %s" % answer.json)
    expect(home.count("core", "checks") >= 1, "they were computed twice")


def what_cannot_be_verified_is_refused(place):
    node = place.found()
    for arguments, words in ((("--verify", "certificate"), "no certificate"),
                             (("--verify", "quorum", "--local"), "--local"),
                             (("--verify", "sometimes"), "give none, spot"),
                             (("--verify", "spot=101%"), "0.1% to 100%"),
                             (("--verify", "spot=0%"), "0.1% to 100%"),
                             (("--verify", "spot=5"), "0.1% to 100%"),
                             (("--verify", "spot=0.0005"), "0.1% to 100%"),
                             (("--verify", "spot=0.5x"), "spot=5% or spot=0.05"),
                             (("--verify", "quorum=5%"), "give none, spot")):
        answer = node.submit("spin", "--items", 4, *arguments, code=2)
        expect(words in answer.error, "%s says %r" % (answer, words))
    for share in "spot=0.05", "spot=5%", "spot=1":
        node.submit("spin", "--items", 4, "--verify", share)


def a_certificate_proves_products_and_catches_wrong_ones(place):
    nodes = mesh_with_a_liar(place)
    home = nodes["ashburn"]
    random = numpy.random.default_rng(7)
    for kind, precision in ((numpy.float32, "float32"), (numpy.float32, "bfloat16"), (numpy.int8, "float32")):
        a = (random.integers(-100, 100, (4000, 64))).astype(kind)
        b = (random.integers(-100, 100, (64, 48))).astype(kind)
        numpy.save(place.path("a.npy"), a)
        numpy.save(place.path("b.npy"), b)
        home.submit("matmul", "--input", "a=" + place.path("a.npy"), "--input", "b=" + place.path("b.npy"), "--split", "a",
                    "--shard-items", 50, "--cache", "off", "--verify", "certificate", "--param", "precision=" + precision, "--output",
                    "c=" + place.path("c.npy"))
        wide = numpy.int32 if kind == numpy.int8 else numpy.float64
        expect(numpy.allclose(numpy.load(place.path("c.npy")), a.astype(wide) @ b.astype(wide), rtol=1e-4),
               "the product of %s in %s is right" % (kind, precision))
    expect(all(not row_of(home, site)["quarantined"] for site in SITES if site != LIAR), "no honest site is caught")


def a_job_that_ends_while_its_results_are_proved_takes_nothing_along(place):
    """Certificates are computed beside the loop: the job, and its inputs' maps, may go meanwhile."""
    home = place.mesh("ashburn")["ashburn"]
    for name, rows in (("a", 3000), ("b", 1000)):
        numpy.save(place.path(name + ".npy"), numpy.ones((rows, 1000), numpy.float32))
    product = ("matmul", "--input", "a=%s:split" % place.path("a.npy"), "--input", "b=" + place.path("b.npy"), "--cache", "off",
               "--verify", "certificate")
    for done in range(3):
        job = home.submit_detached(*product, "--shard-items", "10")
        wait_until("%d shards are done" % done, lambda: home.job(job)["done"] >= done, 60)
        home.weir("cancel", job)
        home.wait_job(job, "cancelled")
    home.submit(*product, "--output", place.path("c.npy"), timeout_s=120)
    expect((numpy.load(place.path("c.npy")) == 1000).all(), "the product after that is wrong")


def wait_disputed(node, job):
    """Until a committed result of the running job has proved wrong; returns how many."""
    def disputed():
        row = node.job(job)
        expect(row["state"] == "running", "the job is over before anything was disputed: %s" % row)
        return row["disputed"]
    return wait_until("a committed result proves wrong", disputed, 90)


def wrong_items(node, job, items):
    """How many of the committed results are not what spin gives."""
    answer = node.weir("submit", "--reattach", job, "--output", "mark=" + node.place.path("marks.npy"), code=None, timeout_s=90)
    expect(answer.code in (0, 6), answer)
    return int((numpy.load(node.place.path("marks.npy")).reshape(-1) != spin_marks(items)).sum())


def forgive(home):
    if row_of(home, LIAR)["quarantined"]:
        home.weir("nodes", "--forgive", LIAR)
        wait_until("it is forgiven", lambda: not row_of(home, LIAR)["quarantined"])


def long_job(home, items, *arguments):
    return home.submit_detached("spin", "--items", items, *SPIN, "--param", "us=20000", "--cache", "off", "--verify", "spot=60%", *arguments)


def disputed_job(home, items, *arguments):
    """A running job of which something proved wrong, and how much: a liar that gets few of its shards may tell no lie that is
    checked, or is caught by one that was not committed yet, and then there is another."""
    for _ in range(5):
        job = long_job(home, items, *arguments)
        try:
            return job, wait_disputed(home, job)
        except Failed:
            if home.job(job)["state"] != "done":
                raise
        forgive(home)
    raise Failed("five jobs, and nothing of any was disputed while it ran")


def a_restart_forgets_no_dispute_and_checks_what_a_liar_brought_before(place):
    nodes = mesh_with_a_liar(place, **{"work.cpu_slots": 6})
    home = nodes["ashburn"]
    job, before = disputed_job(home, 400, "--replicas", "1")
    home.kill()
    home.start()
    home.wait_states({site: "up" for site in SITES})
    expect(home.job(job)["disputed"] >= before, "%d were disputed: %s" % (before, home.job(job)))
    done = home.wait_job(job, timeout_s=180)
    wrong = wrong_items(home, job, 400)
    expect(done["disputed"] == wrong, "%d of its results are wrong, and so many disputed: %s" % (wrong, done))


def the_next_home_knows_what_was_disputed(place):
    nodes = mesh_with_a_liar(place, **{"work.cpu_slots": 6})
    home = nodes["ashburn"]
    job, before = disputed_job(home, 400, "--replicas", "3")
    done = home.job(job)["done"]
    # What it says of a dispute may not be at a majority yet, and entries go there in their order: ten more have followed it.
    wait_until("later results have come", lambda: home.job(job)["done"] >= done + 10, 60)
    home.kill()
    next_home = wait_taken_over([nodes[site] for site in SITES[1:]], job)
    expect(next_home.job(job)["disputed"] >= before, "%d were disputed: %s" % (before, next_home.job(job)))
    done = next_home.wait_job(job, timeout_s=180)
    if row_of(next_home, LIAR)["quarantined"]:  # then each word of the liar's was checked, the old home's time included
        wrong = wrong_items(next_home, job, 400)
        expect(done["disputed"] == wrong, "%d of its results are wrong, and so many disputed: %s" % (wrong, done))


def finished_with_a_lie(home, round_, us):
    """A job that is done and holds wrong results of which nobody knows; and how many. None: somebody found out, or it is right."""
    out, answer = submit(home, 80, "--verify", "spot", "--cache", "mesh", "--key",
                         "believed-%d" % round_, code=None, us=us + round_)
    del out
    job = answer.json["id"]
    wrong = wrong_items(home, job, 80)
    if row_of(home, LIAR)["quarantined"]:
        forgive(home)
        return None
    return (job, wrong) if wrong > 0 else None


def trusted_liar(place):
    """Its results were right until it was trusted; then its device breaks."""
    nodes = place.mesh(*SITES)
    home, liar = nodes["ashburn"], nodes[LIAR]
    liar.stop()
    liar.settings["work.cpu_slots"] = 6
    liar.start()
    home.wait_states({site: "up" for site in SITES})
    for round_ in range(8):
        if row_of(home, LIAR)["confirmed"] >= 50:
            break
        submit(home, 150, "--verify", "spot=100%", "--key", "honest-%d" % round_, us=2000)
    expect(row_of(home, LIAR)["confirmed"] >= 50, "it is trusted: %s" % row_of(home, LIAR))
    liar.stop()
    liar.settings["work.worker"] = os.path.join(place.build, "lying-worker")
    liar.start()
    home.wait_states({site: "up" for site in SITES})
    return home


def done_with_lies(home, us=5000):
    found = None
    for round_ in range(10):
        found = finished_with_a_lie(home, round_, us)
        if found:
            break
    expect(found, "in ten jobs no lie was believed")
    job, wrong = found
    expect(home.job(job)["disputed"] == 0, "nobody knows of it yet: %s" % home.job(job))
    return job, wrong


def jobs_that_are_done_are_computed_again_when_who_brought_some_is_caught(place):
    home = trusted_liar(place)
    job, wrong = done_with_lies(home)
    for round_ in range(5):
        submit(home, 100, "--verify", "spot=100%", "--key", "catches-%d" % round_, code=None)
        if row_of(home, LIAR)["quarantined"]:
            break
    expect(row_of(home, LIAR)["quarantined"], "it is caught: %s" % row_of(home, LIAR))
    wait_until("the job is disputed: %s" % home.job(job), lambda: home.job(job)["disputed"] == wrong, 60)
    again = [row for row in home.call("jobs")["jobs"] if row.get("recheck_of") == job[:16]]
    expect(len(again) == 1 and again[0]["state"] == "done", "it was computed again once: %s" % again)
    expect(0 < again[0]["cached"] < 80, "what others brought came from the cache: %s" % again)
    expect(wrong_items(home, again[0]["id"], 80) == 0, "and is right now")
    expect("was wrong about %d shard" % wrong in " ".join(home.weir("explain", job).out.split()), home.weir("explain", job).out)
    home.kill()
    home.start()
    home.wait_states({site: "up" for site in SITES})
    expect(home.job(job)["disputed"] == wrong, "a restart forgets it not: %s" % home.job(job))


def what_is_to_be_computed_again_is_known_after_a_crash(place):
    home = trusted_liar(place)
    job, wrong = done_with_lies(home, us=50000)  # to compute it again takes seconds: the home dies in the middle of that
    before = home.log_text().count("event=quarantine")
    for round_ in range(5):
        home.submit_detached("spin", "--items", "400", *SPIN, "--param", "us=50000", "--cache", "off", "--verify", "spot=100%", "--key", "catches-%d" % round_)
        with contextlib.suppress(Failed):
            # The log is read, as a command's answer comes late from a machine that is busy.
            wait_until("it is caught", lambda: home.log_text().count("event=quarantine") > before, 20)
            break
    home.kill()
    expect(not any("event=recheck" in line and "wrong=" in line for line in home.log_text().splitlines()), "it was computed already: %s" % home.log_end())
    home.start()
    wait_until("the job is disputed", lambda: home.job(job)["disputed"] == wrong, 120)


def doubled(place, home, kind, c_type, key):
    """A tolerant kernel of a user's that doubles ones; returns what came out."""
    head = HEAD.replace("name = bad", "name = bad\nclass = tolerant\ntolerance = 1e-5")
    head = head.replace("[output y]\ntype = float32", "[output y]\ntype = " + kind)
    source = (ENTRY % "  y[weir_item()] = 2 * x[weir_item()];").replace("float *y", c_type + " *y")
    home.weir("submit", *write_kernel(place, source, head), "--shard-items", "5", "--verify", "spot=100%", "--cache", "off",
              "--key", key, "--output", "y=" + place.path("y.npy"), code=None, timeout_s=120)
    return numpy.load(place.path("y.npy"))


def tolerant_results_are_compared_by_their_tolerance(place):
    """The liar's floats are off in their last bit, which the kernel's author allows; its whole numbers are wrong."""
    need_compiler(place)
    home = mesh_with_a_liar(place, **{"work.cpu_slots": 6})["ashburn"]
    home.stop()
    home.settings["work.cpu_slots"] = 0  # it would have run such short shards before others are asked
    home.start()
    wait_until("the liar is known as the largest", lambda: row_of(home, LIAR)["slots"] == 6)
    for round_ in range(20):
        out = doubled(place, home, "float32", "float", "floats-%d" % round_)
        expect(numpy.allclose(out, 2, rtol=1e-5), out)
        if (out != 2).any():
            break
    expect((out != 2).any(), "the liar had a part in it")
    expect(not any(row["quarantined"] for row in home.nodes().values()), "what is within the tolerance is right: %s" % home.nodes())
    for round_ in range(20):
        doubled(place, home, "int32", "int", "wholes-%d" % round_)
        if home.count("core", "doubted"):
            break
    expect(home.count("core", "doubted") == 1, "its whole numbers are not: %s" % home.counters("core"))


def a_kernel_that_gives_what_it_likes_expels_nobody(place):
    """Each shard is another bit of an address, which differs from process to process: nobody lied."""
    need_compiler(place)
    nodes = place.mesh("ashburn", "berlin", "cairo", work__cpu_slots=2)
    home = nodes["ashburn"]
    source = ENTRY % "  y[weir_item()] = (float)((uint64_t)x >> (14 + items.first / 10 % 16) & 1);"
    head = HEAD.replace("name = bad", "name = bad\npositional = yes")
    answer = home.weir("submit", *write_kernel(place, source, head), "--shard-items", "10", "--verify", "spot=100%", "--cache", "off", "--json", "--output",
                       "y=" + place.path("y.npy"), code=None, timeout_s=120)
    expect(answer.code in (0, 6), answer)
    expect(home.count("core", "doubted") >= 1, "nobody noticed: %s" % home.counters("core"))
    expect(not any(row["quarantined"] for row in home.nodes().values()), home.nodes())
    said = home.weir("explain", answer.json["id"]).out
    expect("or the kernel gives what it likes" in said, said)
    submit(home, 20, "--verify", "spot")  # other work goes on as before
    expect(not any(row["quarantined"] for row in home.nodes().values()), home.nodes())


def trust_outlives_a_restart(place):
    nodes = place.mesh("ashburn", "berlin", "cairo")
    home = nodes["ashburn"]
    submit(home, 100, "--verify", "spot")
    confirmed = {site: row_of(home, site)["confirmed"] for site in ("berlin", "cairo")}
    expect(max(confirmed.values()) >= 10, "nobody is trusted: %s" % confirmed)
    home.stop()
    home.start()
    home.wait_states({site: "up" for site in nodes})
    again = {site: row_of(home, site)["confirmed"] for site in confirmed}
    expect(again == confirmed, "%s before, %s after" % (confirmed, again))


TESTS = [a_kernel_that_gives_what_it_likes_expels_nobody, tolerant_results_are_compared_by_their_tolerance, jobs_that_are_done_are_computed_again_when_who_brought_some_is_caught,
         what_is_to_be_computed_again_is_known_after_a_crash, a_restart_forgets_no_dispute_and_checks_what_a_liar_brought_before, the_next_home_knows_what_was_disputed,
         trust_outlives_a_restart, a_site_that_lies_is_caught_and_shown, what_a_liar_left_in_the_cache_is_void, a_quorum_takes_no_wrong_result, what_cannot_be_verified_is_refused,
         a_certificate_proves_products_and_catches_wrong_ones,
         a_job_that_ends_while_its_results_are_proved_takes_nothing_along]
