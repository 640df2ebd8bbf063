"""What was promised, held against what clients were told and what the nodes' disks say. No code of the nodes is used.

    lost      an acknowledged job that did not end with its results, or a settled entry of a journal that was replaced
    doubled   a shard that one journal commits twice
    wrong     results that differ from NumPy's
    forked    records of one origin that claim one place in its order and differ

A takeover is timed from the SIGKILL of a job's home to the first shard that the new home hands out, by the nodes' logs.
"""
import datetime
import re

LINE = re.compile(r"^ts=(\S+) .*? at=(\S+) event=job job=(\S+) state=(\w+)", re.M)
FORKS_SHOWN = 5


def wall(stamp):
    return datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def takeovers(sites, acked, kills):
    """How many there were, and of those after a kill of the home the milliseconds until the job went on."""
    home = {job.id[:8]: job.home for job in acked}
    steps = []
    for site in sites:
        with open(site.log, encoding="utf-8", errors="replace") as log:
            steps += [(wall(ts), site.name, job, state) for ts, _, job, state in LINE.findall(log.read())]
    steps.sort()
    count, took = 0, []
    for at, site, job, state in steps:
        if state == "taken_over":
            count += 1
        if state == "resumed":
            killed = [when for name, when in kills if name == home.get(job) and when < at]
            if killed and home[job] != site and at - killed[-1] < 120:
                took.append(round(1000 * (at - killed[-1])))
        if state in ("resumed", "restored"):
            home[job] = site
    return count, took


def run(sites, people, history, kills):
    """The figures of a run, and why it failed; nothing runs any more."""
    for site in sites:
        history.look(site)
    jobs = [job for person in people for job in person.jobs]
    acked = [job for job in jobs if job.id is not None]
    changed, doubled, forked, fallen = history.changed(), history.doubled(), history.forked(), history.epochs_fall()
    count, took = takeovers(sites, acked, kills)
    row = {
        "jobs": len(acked),
        "refused": len(jobs) - len(acked),
        "shards": sum(job.shards for job in acked if job.result is not None),
        "lost": sum(1 for job in acked if job.result is None) + len(changed),
        "wrong": sum(1 for job in acked if job.result == "wrong"),
        "doubled": len(doubled),
        "forked": len(forked),
        "reattached": sum(1 for job in acked if job.done_by not in (None, job.home)),
        "takeovers": count,
        "takeover_ms": took,
        "commits_seen": history.commits(),
        "looks": history.looks,
    }
    failed = ["%s: %d" % (key, row[key]) for key in ("lost", "doubled", "wrong", "forked") if row[key]]
    failed += ["job %s: entry %d was settled and replaced" % (job.hex()[:8], index) for job, index in changed]
    failed += ["job %s: shard %d was committed twice" % (job.hex()[:8], shard) for job, shard in doubled]
    failed += ["job %s: an entry of an earlier epoch follows" % job.hex()[:8] for job in fallen]
    failed += ["record of %s, kind %d, (%d, %d): two of them" % (name[0].hex()[:8], *name[1:])
               for name in forked[:FORKS_SHOWN]]
    failed += history.errors
    if not acked:
        failed.append("no job was acknowledged")
    if history.commits() == 0:
        failed.append("no journal was seen on any disk")
    row["failed"] = failed
    return row


def line(row):
    return ("seed %(seed)d: %(minutes)g min, %(kills)d kills, %(pauses)d pauses, %(cuts)d cuts, %(disk_faults)d disk faults; "
            "%(jobs)d jobs (%(refused)d not taken), %(shards)d shards, %(lost)d lost, %(doubled)d doubled, %(wrong)d wrong; "
            "%(takeovers)d takeovers, %(reattached)d reattached" % row)
