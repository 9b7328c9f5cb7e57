"""fio as the one client of every side: the same job, the same engine, figures from its JSON."""

import json
import subprocess
import tempfile
from dataclasses import dataclass


@dataclass
class Job:
    """What is asked for; `bytes` ends it by volume, else it runs for `seconds`."""

    rw: str
    block: str = "4k"
    depth: int = 32
    flush_every: int = 0
    bytes: int = 0
    verify: bool = False


@dataclass
class Result:
    iops: float
    mib_s: float
    p99_us: float


def run(address: str, job: Job, size_bytes: int, seconds: float = 0, seed: int = 1, offset: int = 0) -> Result:
    """Runs a job against an NBD address, or against a file with O_DIRECT and io_uring."""
    is_nbd = address.startswith("nbd")
    where = ["--ioengine=nbd", f"--uri={address}"] if is_nbd else ["--ioengine=io_uring", "--direct=1", f"--filename={address}"]
    command = ["fio", "--name=job", *where, f"--rw={job.rw}", f"--bs={job.block}", f"--iodepth={job.depth}",
               f"--size={size_bytes}", f"--offset={offset}", f"--randseed={seed}", "--randrepeat=1", "--norandommap=0",
               "--clat_percentiles=1", "--percentile_list=99"]
    if job.flush_every:
        command.append(f"--fsync={job.flush_every}")
    command += [f"--io_size={job.bytes}"] if job.bytes else ["--time_based", f"--runtime={int(seconds * 1000)}ms"]
    with tempfile.NamedTemporaryFile("r", suffix=".json") as output:
        done = subprocess.run([*command, "--output-format=json", f"--output={output.name}"], capture_output=True, text=True)
        text = output.read()
    if done.returncode != 0 or "{" not in text:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{text[-2000:]}{done.stderr}")
    figures = json.loads(text[text.index("{"):])["jobs"][0]
    side = figures["read" if "read" in job.rw else "write"]
    return Result(side["iops"], side["bw_bytes"] / 2**20, side["clat_ns"]["percentile"]["99.000000"] / 1000)
