"""Dask as the peer: a scheduler and two worker processes on this machine, and no-op tasks of 200 B each.

    dask_peer.py COUNT SINGLE_COUNT RUNS

Prints one JSON object: {"batch": [tasks per second, one per run], "single": [...]}. Every result is checked.
"""
import json
import sys
import time
import os

ROW_BYTES = 200


def noop(row):
    return len(row)


def rate_of(count, run):
    begin = time.perf_counter()
    results = run()
    seconds = time.perf_counter() - begin
    assert results == [ROW_BYTES] * count, "a task's result is wrong"
    return count / seconds


def main():
    count, single_count, runs = (int(text) for text in sys.argv[1:4])
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1",
                      dashboard_address=None, silence_logs=50) as cluster, Client(cluster) as client:
        client.gather(client.map(noop, [os.urandom(ROW_BYTES) for _ in range(100)], pure=False))
        batch, single = [], []
        for _ in range(runs):
            rows = [os.urandom(ROW_BYTES) for _ in range(count)]
            batch.append(rate_of(count, lambda: client.gather(client.map(noop, rows, pure=False))))
            rows = rows[:single_count]
            single.append(rate_of(single_count,
                                  lambda: [client.submit(noop, row, pure=False).result() for row in rows]))
    print(json.dumps({"batch": batch, "single": single}))


if __name__ == "__main__":
    main()
