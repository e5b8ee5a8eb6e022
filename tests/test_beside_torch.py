"""PyTorch's example beside Keras: the same network, initial values and settings; the driver's arithmetic."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest

from hvdtrain.bench.beside_torch import Outcome, configuration, main, measure, of_run, tables
from hvdtrain.config import Config
from hvdtrain.workshop.models import torch_example
from tests.conftest import missing


def require_torch() -> None:
    if find_spec("torch") is None:
        missing("torch", "PyTorch is not installed (pip install 'hvdtrain[bench]')")


def test_the_network_is_pytorchs_to_the_last_weight():
    require_torch()
    import torch

    from hvdtrain.train.bench.torch_mnist import DEVIATION, MEAN, network

    torch.manual_seed(0)
    theirs, ours = network().eval(), torch_example()
    drawn = [tensor.detach().numpy() for tensor in theirs.parameters()]
    for mine, other in zip(ours.weights, drawn, strict=True):
        found = np.asarray(mine)
        assert found.size == other.size
        limit = np.abs(other).max()
        assert np.abs(found).max() == pytest.approx(limit, rel=0.3 if found.size < 200 else 0.02)
    # PyTorch keeps (out, in, height, width) and flattens channels first.
    dense = drawn[4].reshape(128, 64, 12, 12).transpose(0, 2, 3, 1).reshape(128, -1)
    arrays = [drawn[0].transpose(2, 3, 1, 0), drawn[1], drawn[2].transpose(2, 3, 1, 0), drawn[3]]
    ours.set_weights([*arrays, dense.T, drawn[5], drawn[6].T, drawn[7]])
    images = np.random.default_rng(0).random((3, 28, 28, 1), np.float32)
    normalised = torch.from_numpy((images.transpose(0, 3, 1, 2) - MEAN) / DEVIATION).float()
    expected = theirs(normalised).exp().detach().numpy()
    assert np.asarray(ours(images)) == pytest.approx(expected, abs=1e-5)


def test_adadelta_takes_the_steps_of_pytorchs():
    require_torch()
    import torch

    settings = configuration(1, 0, 1)["optimizer"]
    assert isinstance(settings, dict)
    weight, ours = torch.nn.Parameter(torch.ones(3)), keras.Variable(np.ones(3, np.float32))
    theirs = torch.optim.Adadelta([weight], lr=1.0)
    mine = keras.optimizers.Adadelta(settings["learning_rate"], **settings["args"])
    for step in range(5):
        gradient = np.array([1.0, -0.1, 10.0 * step], np.float32)
        weight.grad = torch.from_numpy(gradient)
        theirs.step()
        mine.apply([keras.ops.convert_to_tensor(gradient)], [ours])
    assert np.asarray(ours) == pytest.approx(weight.detach().numpy(), rel=1e-5)


@pytest.mark.parametrize("epochs", [1, 14])
def test_what_hvdtrain_trains_is_a_configuration(epochs: int):
    config = Config.model_validate(configuration(2, 3, epochs))
    assert (config.training.global_batch_size, config.launch.num_ranks, config.training.seed) == (64, 2, 3)


def test_the_tables_pair_seeds():
    found = {
        "PyTorch": {seed: Outcome(0.98, 20.0 + seed, 30.0, 40.0) for seed in range(3)},
        "hvdtrain, 2 ranks": {seed: Outcome(0.98 + 0.001 * seed, 10.0 + seed / 2, 20.0, 10.0) for seed in range(3)},
    }
    text = tables(found)
    assert "| hvdtrain, 2 ranks | 98.10 +- 0.06" in text
    assert "| 2.00 (2.00 to 2.00) | 1.50 (1.50 to 1.50) | 4.00 (4.00 to 4.00) | 3 |" in text


@pytest.mark.parametrize("launches", [3, 5])
def test_a_stop_shows_the_seeds_that_ended_if_there_are_two(launches: int):
    done: list[str] = []

    def launch(arm: str, seed: int) -> Outcome:
        if len(done) == launches:
            raise KeyboardInterrupt
        done.append(arm)
        return Outcome(0.98, 1.0, 2.0, 3.0)

    if launches < 4:
        with pytest.raises(KeyboardInterrupt):
            measure(["a", "b"], 4, launch)
    else:
        found = measure(["a", "b"], 4, launch)
        assert {arm: sorted(outcomes) for arm, outcomes in found.items()} == {"a": [0, 1], "b": [0, 1]}


def test_seconds_are_those_from_start_to_end(tmp_path: Path):
    place = tmp_path / "runs" / "a" / "b"
    place.mkdir(parents=True)
    records = [{"kind": "start", "time": 5.0}, {"kind": "first_step", "time": 8.0}, {"kind": "end", "time": 9.5}]
    (place / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)))
    (place / "summary.json").write_text(json.dumps({"metrics": {"val_accuracy": 0.5}}))
    assert of_run(tmp_path) == (0.5, 4.5)


@pytest.mark.parametrize("words", [["--ranks", "3"], ["--seeds", "1"], ["--cores", "999"]])
def test_what_makes_no_sense_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "must" in capsys.readouterr().err
