"""The owner comes first: devices claimed by command, while others' work runs on them."""
import os
import signal

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


TESTS = [a_claimed_device_is_free_at_once_and_its_shards_go_back, work_goes_on_elsewhere_and_comes_again_after_a_release,
         a_worker_that_does_not_listen_is_killed_after_the_grace,
         a_claim_outlives_a_restart_and_ends_when_it_was_said_to, mistakes_are_told, a_node_that_lends_nothing_says_so]
