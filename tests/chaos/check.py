"""What was promised, held against what clients were told and what the nodes' disks say. No code of the nodes is used.

    lost      an acknowledged job that did not end with its results, or a settled entry of a journal that was replaced
    doubled   a shard that one journal commits twice, or a second job under one key
    wrong     results that differ from NumPy's
    forked    records of one origin that claim one place in its order and differ

A takeover is timed by the nodes' logs, from the SIGKILL of a job's home until another has read its journal, and to the first shard
that this one hands out: all of it, and without the time in which no majority of the journal's sites was up, awake, with its disk, and
in touch with one of them.
"""
import collections
import datetime
import re

LINE = re.compile(r"^ts=(\S+) .*? at=(\S+) event=job job=(\S+) state=(\w+)", re.M)
FORKS_SHOWN = 5
EXIT_USAGE = 2
EVER = float("inf")
ENDS = ("done", "failed", "cancelled")


def wall(stamp):
    return datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def steps_of(sites):
    """What the nodes said of jobs in several copies, in the order of time: (when, site's index, job's first digits, state)."""
    steps = []
    for site in sites:
        with open(site.log, encoding="utf-8", errors="replace") as log:
            steps += [(wall(ts), site.index, job, state) for ts, _, job, state in LINE.findall(log.read())]
    return sorted(steps)


class Outages:
    """When which sites and ways did not work, by what the nemesis did and by who ended by himself."""

    def __init__(self, sites, foe):
        self.spans = [(what, begin, EVER if end is None else end) for what, begin, end in foe.broken]
        self.spans += [(site.index, begin, end) for site in sites for begin, end in site.away]
        self.put_back = foe.put_back

    def without_majority_s(self, members, begin, until):
        """Seconds in which no member was well and in touch, both ways, with enough well ones to make a majority."""
        # A folder that was put back meanwhile has forgotten the journal until there is a home again.
        spans = self.spans + [(site, at, EVER) for site, at in self.put_back if at >= begin]
        edges = {begin, until} | {at for _, *span in spans for at in span if begin < at < until}
        edges, lacking = sorted(edges), 0
        for at, next_at in zip(edges, edges[1:]):
            down = {what for what, first, last in spans if first <= at < last}
            well = [site for site in members if site not in down]
            most = max((sum(1 for b in well if a == b or not {(a, b), (b, a)} & down) for a in well), default=0)
            lacking += next_at - at if 2 * most <= len(members) else 0
        return lacking


def takeovers(sites, acked, kills, history, outages):
    """
    How many there were, and a row for each SIGKILL of a job's home after which somebody, perhaps that site again, became home
    and handed out a shard: the time from the kill until the new home had read the journal, and until that first grant, which
    waits in turn for a slot as all work does; and both less what passed while no majority of the journal was well and in touch.
    """
    index = {site.name: site.index for site in sites}
    # Who answers a repeated submit need not be the home.
    told = [(job.acked_wall, index[job.home], job.id[:8], "acked") for job in acked if job.submits == 1]
    full = {job.hex()[:8]: job for job in history.keepers}
    killed = [(when, index[name], None, "killed") for name, when in kills]
    count, home, headless, rows = 0, {}, {}, []  # headless: job -> [killed at, led at]
    for at, site, job, state in sorted(steps_of(sites) + killed + told, key=lambda step: step[0]):
        if state == "killed":
            for job, where in home.items():
                if where == site and headless.get(job, (at, at))[1] is not None:  # else it has had no home since an earlier kill
                    headless[job] = [at, None]
        elif state == "acked":
            home.setdefault(job, site)
        elif state in ("taken_over", "restored"):
            count += state == "taken_over"
            home[job] = site
            if job in headless and headless[job][1] is None:
                headless[job][1] = at
        elif state == "resumed" and job in headless and headless[job][1] is not None:
            begin, led = headless.pop(job)
            members = history.members(full.get(job), begin)
            row = {"job": job, "home": sites[site].name, "killed_at": round(begin, 3)}
            for name, until in (("home", led), ("grant", at)):
                lacking_s = outages.without_majority_s(members, begin, until)
                row[name + "_ms"] = round(1000 * (until - begin))
                row[name + "_able_ms"] = round(1000 * (until - begin - lacking_s))
            rows.append(row)
        elif state in ENDS:
            headless.pop(job, None)
            home.pop(job, None)
    return count, rows


def second_jobs(jobs, history):
    """What tells that a key was given two jobs: two ids, or more journals than keys that nobody was told an id for."""
    found = ["key %r: jobs %s" % (job.key, ", ".join(sorted(name[:8] for name in job.names))) for job in jobs if len(job.names) > 1]
    told = set().union(*(job.names for job in jobs))
    strange = sorted({job.hex() for job in history.keepers} - told)
    untold = sum(1 for job in jobs if job.id is None)
    if len(strange) > untold:
        found.append("%d journals of jobs that nobody was told of, by %d keys: %s" % (len(strange), untold, ", ".join(
            name[:8] for name in strange[:FORKS_SHOWN])))
    return found


def run(sites, people, history, foe):
    """The figures of a run, and why it failed; nothing runs any more."""
    for site in sites:
        history.look(site, last=True)
    jobs = [job for person in people for job in person.jobs]
    acked = [job for job in jobs if job.id is not None]
    again = second_jobs(jobs, history)
    refusals = sum((person.refusals for person in people), collections.Counter())
    changed, doubled, forked, fallen = history.changed(), history.doubled(), history.forked(), history.epochs_fall()
    count, took = takeovers(sites, acked, foe.killed, history, Outages(sites, foe))
    row = {
        "jobs": len(acked),
        "refused": len(jobs) - len(acked),
        "refusals": [[count, code, line] for (code, line), count in refusals.most_common()],
        "shards": sum(job.shards for job in acked if job.result is not None),
        "lost": sum(1 for job in acked if job.result is None) + len(changed),
        "wrong": sum(1 for job in acked if job.result == "wrong"),
        "doubled": len(doubled) + len(again),
        "forked": len(forked),
        "reattached": sum(1 for job in acked if job.done_by not in (None, job.home)),
        "at_once": sum(1 for job in acked if job.at_once),  # without a journal: others took it from its home
        "takeovers": count,
        "took": took,
        "commits_seen": history.commits(),
        "looks": history.looks,
    }
    failed = ["%s: %d" % (key, row[key]) for key in ("lost", "doubled", "wrong", "forked") if row[key]]
    failed += ["job %s: entry %d was settled and replaced" % (job.hex()[:8], index) for job, index in changed]
    failed += ["job %s: shard %d was committed twice" % (job.hex()[:8], shard) for job, shard in doubled]
    failed += ["job %s: an entry of an earlier epoch follows" % job.hex()[:8] for job in fallen]
    failed += again
    failed += ["record of %s, kind %d, (%d, %d): two of them" % (name[0].hex()[:8], *name[1:])
               for name in forked[:FORKS_SHOWN]]
    failed += history.errors
    failed += ["%s ended by signal %d" % (site.name, -code) for site in sites for code in site.ended_by_itself if code < 0]
    failed += ["a submit was wrong by itself: %s" % line for code, line in refusals if code == EXIT_USAGE]
    if not acked:
        failed.append("no job was acknowledged")
    if history.commits() == 0:
        failed.append("no journal was seen on any disk")
    row["failed"] = failed
    return row


def line(row):
    return ("seed %(seed)d: %(minutes)g min, %(kills)d kills, %(pauses)d pauses, %(cuts)d cuts, %(disk_faults)d disk faults; "
            "%(jobs)d jobs (%(refused)d not taken), %(shards)d shards, %(lost)d lost, %(doubled)d doubled, %(wrong)d wrong; "
            "%(takeovers)d takeovers, %(reattached)d reattached, %(at_once)d done at once" % row)
