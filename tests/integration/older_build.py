#!/usr/bin/python3
"""Builds the last commit that spoke the version of the protocol before ours: older_build.py [--into FOLDER]

Prints the folder with its `weir` and `weir-worker`, which is kept by the commit's name and found again by the next call.
Ends with 77, saying why, where the repository's history is missing; with 1 where the build fails, whose output
then stands in FOLDER/COMMIT.log. The checkout that it is called from is not touched.
"""
import argparse
import fcntl
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# The last commit that spoke version 1. Tags aren't copied by every clone, and a history that was rewritten has other names
# for the same commit: there the tag, if somebody set it, stands for it. A new version of the protocol moves both on.
COMMIT = "f2eb6e064f504b3c660bc7c2825baf95c824b79b"
TAG = "protocol-1"
PROGRAMS = ("weir", "weir-worker")
SKIP = 77


class Missing(Exception):
    """There is nothing to build from."""


def find_commit():
    for name in (COMMIT, TAG):
        done = subprocess.run(["git", "-C", ROOT, "rev-parse", "--verify", "--quiet", name + "^{commit}"],
                              capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
    raise Missing("there is no history with the commit %s or the tag %s here" % (COMMIT[:12], TAG))


def build(commit, folder, log):
    """Into a folder of its own beside the final one, which appears when all is done."""
    work = folder + ".part"
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    with subprocess.Popen(["git", "-C", ROOT, "archive", commit], stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x", "-C", work], stdin=archive.stdout, check=True)
    if archive.returncode != 0:
        raise Missing("the files of %s are not all here (a shallow or partial clone?)" % commit[:12])
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
