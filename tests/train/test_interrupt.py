import json
import signal
import subprocess
import sys
import time

import pytest

from kanvolution.train import load_run
from kanvolution.train.interrupt import stop_on_signal
from tests.train.toy import CHANNELS

COMMAND = [sys.executable, "-m", "kanvolution.cli", "train", f"model.channels={CHANNELS}", "trainer.epochs=100000"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_usable_checkpoint(tmp_path, number: signal.Signals) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [*COMMAND, f"output_dir={folder}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 120
        metrics = folder / "metrics.jsonl"
        while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert f"stopped by {number.name}" in errors and str(folder) in errors and "Traceback" not in errors
    whole_epochs = len([json.loads(line) for line in metrics.read_text().splitlines()])
    assert load_run(folder).epoch == whole_epochs
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


@pytest.fixture
def interruptible():
    """SIGINT raises KeyboardInterrupt, also where the shell has its programs in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_second_signal_acts_as_before_and_handlers_are_put_back(interruptible) -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signal() as stop:
        assert not stop
        signal.raise_signal(signal.SIGINT)
        assert stop and stop.name == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_signal_acts_as_before_after_an_inner_block_has_ended(interruptible) -> None:
    with stop_on_signal() as outer:
        with stop_on_signal() as inner:
            signal.raise_signal(signal.SIGINT)
        assert inner and outer
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_stop_in_the_first_epoch_saves_the_weights_so_far(tmp_path) -> None:
    from kanvolution.train import TrainingInterrupted, fit
    from kanvolution.train.progress import Silent
    from tests.train.toy import toy_data, toy_model

    class StopAtFirstStep(Silent):
        def step(self, epoch: int, images: int) -> None:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(TrainingInterrupted, match="SIGTERM in the first epoch"):
        fit(toy_model(), toy_data(), output_dir=tmp_path / "run", progress=StopAtFirstStep())
    assert load_run(tmp_path / "run").epoch == 0
