"""Times and memory of layers and networks beside the plain convolution with as many channels as the expansion has.

That convolution, which gets the expansions ready-made, is the "roof" of the speed. A case is a layer or a network of
`CASES`, with a basis. In each case contestants do the same work: the roof, the plain network of the same widths, the
formula in ordinary operators differentiated by autograd, and ours with each backend. Each of our layers is first
compared with the formula on what it sees, in its output and all gradients; what disagrees is reported as wrong, and no
time of it. Then all take turns,
round by round, so that what else the machine does falls on all of them alike. Times are medians over the rounds with
the quartiles; ratios are of medians within a case.
"""

from kanvolution.benchmark.cases import CASES, Case, LayerCase, NetworkCase
from kanvolution.benchmark.contestants import PEERS
from kanvolution.benchmark.measure import TOLERANCES, Result
from kanvolution.benchmark.report import line, markdown
from kanvolution.benchmark.settings import CLOCKS, DTYPES, Settings
from kanvolution.benchmark.suite import machine, run

__all__ = [
    "CASES",
    "CLOCKS",
    "DTYPES",
    "PEERS",
    "TOLERANCES",
    "Case",
    "LayerCase",
    "NetworkCase",
    "Result",
    "Settings",
    "line",
    "machine",
    "markdown",
    "run",
]
