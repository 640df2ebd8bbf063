"""The result cache across nodes: what one site computed, or is computing, another doesn't compute again."""
import os
import threading

from harness import Failed, expect, wait_until

SHARDS = 40
SPIN = ("--items", str(SHARDS), "--shard-items", "1", "--param", "us=50000")


def computed(job):
    """Shards of a job that were run for it."""
    return sum(row["shards"] for row in job.get("by_node", []))


def sites(node):
    return {row["site"]: row["hits"] for row in node.call("cache.stat")["by_site"]}


def submit_at_once(nodes, *arguments):
    """The same job at several nodes in the same moment; returns its ids."""
    jobs, failures, begin = [None] * len(nodes), [], threading.Barrier(len(nodes))

    def one(number, node):
        try:
            begin.wait()
            jobs[number] = node.submit_detached("spin", *arguments)
        except Failed as reason:
            failures.append(str(reason))

    threads = [threading.Thread(target=one, args=(number, node)) for number, node in enumerate(nodes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expect(not failures, "; ".join(failures))
    return jobs


def output(node, job):
    return node.job(job)["outputs"][0]["blob"]


def two_sites_asked_at_once_compute_it_once(place):
    mesh = place.mesh("ashburn", "berlin", "cairo")
    homes = [mesh["ashburn"], mesh["berlin"]]
    jobs = submit_at_once(homes, *SPIN)
    done = [home.wait_job(job, timeout_s=120) for home, job in zip(homes, jobs)]
    ran = [computed(job) for job in done]
    expect(sum(ran) == SHARDS, "%d shards were run for two equal jobs of %d: %s" % (sum(ran), SHARDS, ran))
    expect(done[0]["cached"] + done[1]["cached"] == SHARDS, "cached: %s" % [job["cached"] for job in done])
    expect(output(homes[0], jobs[0]) == output(homes[1], jobs[1]), "the outputs differ")


def one_site_asked_twice_at_once_computes_it_once(place):
    mesh = place.mesh("ashburn", "berlin")
    jobs = submit_at_once([mesh["ashburn"], mesh["ashburn"]], *SPIN)
    ran = [computed(mesh["ashburn"].wait_job(job, timeout_s=120)) for job in jobs]
    expect(sum(ran) == SHARDS, "%d shards were run for two equal jobs of %d: %s" % (sum(ran), SHARDS, ran))


def a_home_killed_with_its_leases_costs_only_time(place):
    mesh = place.mesh("ashburn", "berlin", "cairo")
    first, second = mesh["ashburn"], mesh["berlin"]
    job = first.submit_detached("spin", "--replicas", "1", *SPIN)
    wait_until("some shards are done", lambda: first.job(job)["done"] > 2)
    later = second.submit_detached("spin", *SPIN)
    wait_until("the second uses some of it", lambda: second.job(later)["cached"] > 0)
    first.kill()
    done = second.wait_job(later, timeout_s=120)
    expect(done["cached"] > 0 and computed(done) + done["cached"] == SHARDS, "%s" % done)


def a_cancelled_job_gives_its_leases_back(place):
    mesh = place.mesh("ashburn", "berlin")
    first, second = mesh["ashburn"], mesh["berlin"]
    long = ("--items", "200", "--shard-items", "1", "--param", "us=200000")
    job = first.submit_detached("spin", *long)
    wait_until("it runs", lambda: first.job(job)["done"] > 0)
    later = second.submit_detached("spin", *long)
    wait_until("the second uses what the first computes", lambda: second.job(later)["cached"] > 1)
    before = second.job(later)
    expect(computed(before) == 0, "the second didn't wait: %s" % before)
    first.weir("cancel", job)
    wait_until("the second computes", lambda: computed(second.job(later)) > 0, 10)
    second.weir("cancel", later)


def results_are_copied_to_where_they_are_used(place):
    mesh = place.mesh("ashburn", "berlin", "cairo")
    job = mesh["ashburn"].submit_detached("spin", *SPIN)
    first = mesh["ashburn"].wait_job(job, timeout_s=120)
    again = mesh["berlin"].submit_detached("spin", *SPIN)
    done = mesh["berlin"].wait_job(again)
    expect(done["cached"] == SHARDS, "cached: %s" % done)
    expect(sites(mesh["berlin"]).get("ashburn", 0) > 0, "hits by site: %s" % sites(mesh["berlin"]))
    mesh["ashburn"].stop()
    mesh["cairo"].wait_states({"ashburn": "left"})
    last = mesh["cairo"].submit_detached("spin", *SPIN)
    done = mesh["cairo"].wait_job(last)
    expect(done["cached"] == SHARDS, "berlin's copy was not found: %s" % done)
    expect(output(mesh["cairo"], last) == first["outputs"][0]["blob"], "the outputs differ")
    shown = mesh["cairo"].weir("cache").out
    expect("used from  berlin" in shown, "weir cache says:\n%s" % shown)


def cache_off_and_site_ask_nobody_elsewhere(place):
    mesh = place.mesh("ashburn", "berlin")
    mesh["ashburn"].wait_job(mesh["ashburn"].submit_detached("spin", *SPIN), timeout_s=120)
    for mode, cached in (("off", 0), ("site", 0)):
        done = mesh["berlin"].wait_job(mesh["berlin"].submit_detached("spin", "--cache", mode, *SPIN), timeout_s=120)
        expect(done["cached"] == cached, "--cache %s: %s" % (mode, done["cached"]))
    done = mesh["berlin"].wait_job(mesh["berlin"].submit_detached("spin", "--cache", "site", *SPIN))
    expect(done["cached"] == SHARDS, "its own results were not used: %s" % done["cached"])


def a_full_cache_keeps_what_a_live_job_needs(place):
    """More results than the budget holds, of a job whose shards' outputs are blobs."""
    mesh = place.mesh("ashburn", "berlin", store__cache="4MiB")
    home = mesh["ashburn"]
    path = place.path("rows")
    with open(path, "wb") as out:
        out.write(os.urandom(3 << 20))
    blob = home.weir("blob", "put", path).out.strip()
    submit = {"kernel": "noop", "shard_items": 8, "cache": "mesh", "inputs": [
        {"name": "data", "blob": blob, "format": "raw", "row_bytes": 1024, "split": True}]}
    job = home.call("submit", **submit)["job"]
    for _ in range(6):  # 18 MiB of other blobs press on the budget meanwhile
        with open(path, "wb") as out:
            out.write(os.urandom(3 << 20))
        home.weir("blob", "put", path)
    done = home.wait_job(job, timeout_s=120)
    expect(done["done"] == 3 * 1024 // 8, "%s" % done)
    home.weir("blob", "stat", blob)  # pinned by the job as long as that is kept
    wait_until("something was evicted", lambda: home.call("cache.stat")["evictions"] > 0)


TESTS = [
    two_sites_asked_at_once_compute_it_once,
    one_site_asked_twice_at_once_computes_it_once,
    a_home_killed_with_its_leases_costs_only_time,
    a_cancelled_job_gives_its_leases_back,
    results_are_copied_to_where_they_are_used,
    cache_off_and_site_ask_nobody_elsewhere,
    a_full_cache_keeps_what_a_live_job_needs,
]
