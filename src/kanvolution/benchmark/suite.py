"""Runs cases one after the other."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from kanvolution.bases import list_bases
from kanvolution.benchmark.cases import CASES
from kanvolution.benchmark.contestants import contestants, import_peer
from kanvolution.benchmark.measure import measure
from kanvolution.benchmark.memory import keep_freed_memory
from kanvolution.benchmark.report import line
from kanvolution.benchmark.settings import Settings
from kanvolution.registry import unknown_name


def run(
    bases: Sequence[str] | None = None,
    cases: Sequence[str] | None = None,
    settings: Settings | None = None,
    *,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure cases.

    Args:
        bases: names of bases; all by default.
        cases: names of `CASES`; all by default.
        settings: how.
        report: is called with a line for each case.

    Returns:
        A dictionary of JSON types: "machine", "options", "cases" (what each is, with the bytes of its input) and
        "results", a list of `Result` as dictionaries.

    Raises:
        ValueError: an unknown name, or a peer without its package.
    """
    settings = settings or Settings()
    bases, cases = list(bases or list_bases()), list(cases or CASES)
    for kind, names, known in (("basis", bases, list_bases()), ("case", cases, CASES)):
        for name in names:
            if name not in known:
                raise ValueError(unknown_name(kind, name, known))
    peers = None if settings.peer is None else import_peer(Path(settings.peer))
    own = {key: getattr(settings, key) for key in ("batch", "size") if getattr(settings, key) is not None}
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads or before)
    if settings.keep_memory:
        keep_freed_memory()
    try:
        results, facts = [], {}
        for name in cases:
            case = replace(CASES[name], **own)
            for basis in bases:
                with _compiler(settings.cold):
                    taking_part = contestants(basis, case, settings, peers)
                    found = [asdict(result) for result in measure(basis, name, taking_part, settings)]
                facts[name] = {**asdict(case), "input_bytes": taking_part["roof"].x.nbytes}
                results += found
                report(line(found))
        options = asdict(settings)
        del options["threads"], options["peer"]  # the machine's; whether a peer took part is in the results
        return {"machine": machine(settings.device), "options": options, "cases": facts, "results": results}
    finally:
        torch.set_num_threads(before)


def machine(device: str = "cpu") -> dict[str, Any]:
    """The processor, device, threads and versions that a measurement holds for."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpu = torch.device(device).type == "cuda"
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        **({"gpu": torch.cuda.get_device_name(device)} if gpu else {}),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


@contextlib.contextmanager
def _compiler(cold: bool) -> Iterator[None]:
    """torch.compile without what it has compiled before; with `cold`, without what is on the disk, too."""
    torch._dynamo.reset()
    if not cold:
        yield
        return
    from torch._inductor import config
    from torch._inductor.utils import fresh_cache

    with fresh_cache(), config.patch(compile_threads=1):
        # What the compiler loads at its first use in a process is no cost of a case.
        torch.compile(lambda x: x + 1)(torch.zeros(1))
        yield
