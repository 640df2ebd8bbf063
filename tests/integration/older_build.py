#!/usr/bin/python3
"""Builds the last commit that spoke the version of the protocol before ours: older_build.py [--into FOLDER]

Prints the folder with its `weir` and `weir-worker`, which is kept by the commit's name and found again by the next call.
Ends with 77, saying why, where the repository's history or the tag is missing; with 1 where the build fails, whose output
then stands in FOLDER/COMMIT.log. The checkout that it is called from is not touched.
"""
import argparse
import fcntl
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Of the version before ours, the last commit is tagged protocol-N. A new version moves this on and tags its predecessor.
TAG = "protocol-1"
PROGRAMS = ("weir", "weir-worker")
SKIP = 77


class Missing(Exception):
    """There is nothing to build from."""


def find_commit():
    done = subprocess.run(["git", "-C", ROOT, "rev-parse", "--verify", "--quiet", TAG + "^{commit}"],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Missing("there is no history with the tag %s here" % TAG)
    return done.stdout.strip()


def build(commit, folder, log):
    """Into a folder of its own beside the final one, which appears when all is done."""
    work = folder + ".part"
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    with subprocess.Popen(["git", "-C", ROOT, "archive", commit], stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x", "-C", work], stdin=archive.stdout, check=True)
    if archive.returncode != 0:
        raise Missing("the files of %s are not all here (a shallow or partial clone?)" % TAG)
    for command in (["cmake", "--preset", "release", "-Wno-dev", "--log-level=WARNING"],
                    ["cmake", "--build", "--preset", "release", "-j", str(len(os.sched_getaffinity(0))), "--target",
                     *PROGRAMS]):
        subprocess.run(command, cwd=work, stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=True)
    os.makedirs(folder, exist_ok=True)
    for program in PROGRAMS:
        shutil.copy2(os.path.join(work, "build", program), os.path.join(folder, program))
    shutil.rmtree(work)


def older_build(into):
    """The folder of the older programs."""
    commit = find_commit()
    folder = os.path.join(into, commit)
    os.makedirs(into, exist_ok=True)
    with open(os.path.join(into, "lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two tests may ask at once
        if not all(os.path.exists(os.path.join(folder, program)) for program in PROGRAMS):
            with open(folder + ".log", "w", encoding="utf-8") as log:
                build(commit, folder, log)
    return folder


def main():
    parser = argparse.ArgumentParser(description="Builds the version before ours.")
    parser.add_argument("--into", default=os.path.join(ROOT, "build", "older"), help="where builds are kept")
    options = parser.parse_args()
    try:
        print(older_build(os.path.abspath(options.into)))
    except Missing as reason:
        print("older_build: %s" % reason, file=sys.stderr)
        return SKIP
    except (OSError, subprocess.CalledProcessError) as error:
        print("older_build: %s; see %s" % (error, options.into), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
