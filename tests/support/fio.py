# SPDX-License-Identifier: Apache-2.0
"""fio through its nbd engine."""

import json
import subprocess

from support import programs


def write_job_file(uri, jobs, path, **options):
    """A job file and not a command line: fio takes the ':' in an URI on the command line for a
    separator of its own."""
    lines = ["[global]", "ioengine=nbd", f"uri={uri}", "group_reporting=1"]
    lines += [f"{key}={value}" for key, value in options.items()]
    for index, job in enumerate(jobs):
        lines.append(f"[job{index}]")
        lines += [f"{key}={value}" for key, value in job.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def run_jobs(uri, jobs, directory, timeout=300, **options):
    """Runs fio to its end, with the global options given and one job per dict; returns its JSON."""
    job_file = write_job_file(uri, jobs, directory / "jobs.fio", **options)
    done = programs.run("fio", "--output-format=json", job_file, cwd=directory, timeout=timeout)
    return json.loads(done.stdout[done.stdout.index("{"):])


def start_job(uri, job, directory, name):
    """Starts fio in the background: a load, not a check."""
    job_file = write_job_file(uri, [job], directory / f"{name}.fio")
    return programs.start(["fio", job_file], cwd=directory, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL)
