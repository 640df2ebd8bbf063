#!/usr/bin/python3
"""All checks and timings that need a GPU, on a bare machine with CUDA: gpu.py [--emulated] [--weir FOLDER].

Builds kernels/ alone (no package beyond a C compiler, CMake and nvcc; nothing is fetched), compares every kernel with its CPU twin
bit for bit, measures, and writes build/gpu/report.json with the device's name. What nodes are needed for (mesh.py) is measured
where a whole build runs, and named as missing elsewhere. With --emulated it runs in a reduced form on the
driver that plays a GPU on the CPU: that proves the script, and measures nothing.
"""
import argparse
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Dense peaks in T operations per second, by NVIDIA's data sheets: bfloat16, float32 without tensor cores, int8; and memory in
# GB/s.
PEAKS = {"H100 PCIe": (756, 51, 1513, 2000), "H100": (989, 67, 1979, 3350), "H200": (989, 67, 1979, 4800),
         "A100": (312, 19.5, 624, 1555), "L40S": (362, 91.6, 733, 864), "L4": (121, 30.3, 242, 300)}

TOTAL_S = 540  # a minute is kept for what takes longer than it should


def run(command, log, timeout_s, environment):
    begin = time.monotonic()
    with open(log, "ab") as out:
        out.write(("+ %s\n" % " ".join(command)).encode())
        out.flush()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=out, timeout=timeout_s, env=environment, check=False)
        out.write(done.stdout)
    print("%-60s %4d s, code %d" % (" ".join(command)[-60:], time.monotonic() - begin, done.returncode), flush=True)
    return done


def peaks_of(device):
    for name, peaks in PEAKS.items():
        if all(word in device for word in name.split()):
            return peaks
    return None


def shares(figures, device):
    """What was measured, as shares of what the device could do, where its data sheet is known."""
    peaks = peaks_of(device)
    out = {}
    if peaks:
        for key, peak in (("matmul_bfloat16", peaks[0]), ("matmul_float32", peaks[1]), ("matmul_int8", peaks[2]),
                          ("nbody", peaks[1])):
            if key + "_tops" in figures:
                out[key + "_share_of_peak"] = figures[key + "_tops"] / peak
        if "knn_small_gb_per_s" in figures:
            out["knn_small_share_of_memory"] = figures["knn_small_gb_per_s"] / peaks[3]
    if figures.get("matmul_int8_tops") and "knn_tops" in figures:
        out["knn_share_of_matmul_int8"] = figures["knn_tops"] / figures["matmul_int8_tops"]
    return out


def user_kernels(build, log, environment, emulated):
    """Of each example: the milliseconds that NVRTC takes in a process that has just begun, and, on a GPU, whether the results
    are those of the CPU. (A node finds code that it has compiled before in its store, which this script does not run.)"""
    out = {}
    device = [] if emulated else ["--device", "cuda:0"]
    for source in sorted(glob.glob(ROOT + "/kernels/examples/*.cu")):
        done = run([build + "/weir-worker", "--check", source, *device], log, 60, environment)
        found = re.search(r"^cuda +compiled in (\d+) ms", done.stdout.decode(errors="replace"), re.MULTILINE)
        out[os.path.basename(source)] = {"compile_ms": int(found.group(1)) if found else None,
                                         "equal": None if emulated else done.returncode == 0}
    return out


def mesh(folder, log, environment, emulated, seconds):
    """What needs nodes, beyond what this script builds: by the programs of a whole build, where there is one that runs."""
    for build in [folder] if folder else [ROOT + "/build", ROOT + "/build/test"]:
        if os.path.exists(build + "/weir") and run([build + "/weir", "version"], log, 20, environment).returncode == 0:
            break
    else:
        return {"missing": "no build of the whole of Weir runs here (--weir FOLDER): busy share through the mesh, reclaims and "
                           "kept compiled code are not measured"}
    try:
        done = run([sys.executable, ROOT + "/tests/gpu/mesh.py", "--build", build, "--seconds", "%d" % seconds] +
                   (["--emulated"] if emulated else []), log, seconds + 60, environment)
        return json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        return {"failed": [str(error)]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--emulated", action="store_true", help="on the driver that plays a GPU, in a reduced form")
    parser.add_argument("--build", default=ROOT + "/build/gpu")
    parser.add_argument("--weir", help="folder of a whole build, for the figures that need nodes (build, build/test)")
    options = parser.parse_args()
    begin = time.monotonic()
    os.makedirs(options.build, exist_ok=True)
    log = options.build + "/log.txt"
    open(log, "wb").close()
    environment = dict(os.environ, CUDA_DEVICE_ORDER="PCI_BUS_ID")
    launcher = ["-DCMAKE_C_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
    for command in (["cmake", "-S", ROOT + "/kernels", "-B", options.build, *launcher],
                    ["cmake", "--build", options.build, "-j", str(os.cpu_count() or 2), "--target", "gpu_test", "weir-worker",
                     "gpu_measure"] + (["gpu_emulator"] if options.emulated else [])):
        if run(command, log, 400, environment).returncode != 0:
            sys.exit("gpu: the build failed, see %s" % log)
    if options.emulated:
        environment["LD_LIBRARY_PATH"] = options.build + "/emulated"
    report = {"emulated": options.emulated, "build_s": time.monotonic() - begin}

    small = ["1", "small"] if options.emulated else []
    checks = run([options.build + "/gpu_test", *small], log, 240, environment)
    lines = checks.stdout.decode(errors="replace").splitlines()
    report["checks"] = {"passed": sum(line.startswith("ok ") for line in lines),
                        "failed": [line for line in lines if line.startswith("FAIL")], "code": checks.returncode}
    measured = run([options.build + "/gpu_measure", *(["small"] if options.emulated else [])], log, 300, environment)
    try:
        report.update(json.loads(measured.stdout))
    except ValueError:
        report["measure_failed"] = measured.stdout.decode(errors="replace")[-500:]
    # NVRTC crashes beside a driver that is none; without one it compiles all the same.
    report["user_kernels"] = user_kernels(options.build, log, dict(os.environ) if options.emulated else environment, options.emulated)
    wrong = [name for name, kernel in report["user_kernels"].items() if kernel["equal"] is False]
    report["shares"] = shares(report.get("figures", {}), report.get("device", ""))
    if checks.returncode != 77:
        left_s = TOTAL_S - (time.monotonic() - begin)
        report["mesh"] = mesh(options.weir, log, dict(os.environ), options.emulated, max(100, min(330, left_s)))
    report["seconds"] = time.monotonic() - begin
    with open(options.build + "/report.json", "w", encoding="utf-8") as out:
        json.dump(report, out, indent=1)
        out.write("\n")
    print(json.dumps(report, indent=1))
    skipped = checks.returncode == 77
    if skipped:
        print("gpu: no GPU here", file=sys.stderr)
    failed = checks.returncode or measured.returncode or wrong or "failed" in report.get("mesh", {})
    sys.exit(77 if skipped else 1 if failed else 0)


if __name__ == "__main__":
    main()
