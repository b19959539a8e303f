"""Measures what the report of a large network takes, and stores it.

    python benchmarks/report.py

A network of 40 million parameters is trained for two steps on the digits, and reported in a process of its own. The
result is benchmarks/results/report/NAME.json; one that is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, cpu_name, git

from kanvolution.cli import main as kanvolution
from kanvolution.files import write_json

RESULTS = ROOT / "benchmarks" / "results" / "report"
PROGRAM = """
import json, resource, sys, time
begun = time.perf_counter()
from kanvolution.cli import main
code = main(["report", sys.argv[1], "--output", sys.argv[2]])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"code": code, "seconds": round(time.perf_counter() - begun, 1), "peak_bytes": peak}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, default=1.34, help="of simple8, in units of its own")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = parser.parse_args()
    file = options.folder / "simple8_gram.json"
    if file.exists():
        print(f"{file} is there already")
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        width = f"model.width_scale={options.width}"
        train = ["model=simple8", width, "trainer.max_steps=2", "tracker=none", f"output_dir={folder}/run"]
        if kanvolution(["train", *train]):
            raise SystemExit(1)
        parameters = json.loads((Path(folder) / "run" / "result.json").read_text())["parameters"]
        words = [sys.executable, "-c", PROGRAM, f"{folder}/run", f"{folder}/report.html"]
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        size = (Path(folder) / "report.html").stat().st_size
    found = {
        "command": "kanvolution report RUN",
        "parameters": parameters,
        **json.loads(said.splitlines()[-1]),
        "report_bytes": size,
        "commit": git("rev-parse", "HEAD"),
        "hardware": cpu_name(),
    }
    write_json(file, found)
    print(found)


if __name__ == "__main__":
    main()
