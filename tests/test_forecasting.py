"""From a study to its forecast: the network it was measured on, and what is missing for one."""

import dataclasses
import json

import pytest

from hvdtrain.errors import ConfigError, NotFoundError
from hvdtrain.forecasting import forecast_study, load_network
from hvdtrain.study.cost_model import ring_s
from hvdtrain.study.expand import Point, points
from hvdtrain.study.networks import PRESETS
from hvdtrain.studydir import StudyDir, gather
from tests.test_sample import measurement, rank
from tests.test_studydir import PLAN, measured

ALPHA_S, BETA_S, GRADIENT_BYTES = 3e-6, 1e-10, 10**8
SIZES = (2**10, 2**12, 2**16, 2**20, 2**24, 2**26)


def on_four_hosts(folder) -> StudyDir:
    """A study whose 4 ranks were on 4 hosts: computing, and just the time of a ring over a network without noise."""
    study = measured(folder, (1, 4), num_nodes=4)
    rows = [
        {"way": "horovod", "bytes": size, "seconds": ring_s(size, 4, alpha_s=ALPHA_S, beta_s=BETA_S)} for size in SIZES
    ]
    sweep = {"num_ranks": 4, "gamma_s": 0.0, "rows": [{**row, "is_right": True} for row in rows]}
    seconds = 0.05 + ring_s(GRADIENT_BYTES, 4, alpha_s=ALPHA_S, beta_s=BETA_S)
    one = rank(step=seconds, function=seconds, alone=0.05, held=0.05, reading=0.0)
    found = measurement(one, one, one, one, gradients=[{"name": "w", "bytes": GRADIENT_BYTES}], allreduce=sweep)
    study.run_of("c", Point("ranks", 4, 0)).measurement.write_text(json.dumps({**found, "num_nodes": 4}))
    gather(study)
    return study


def test_a_network_that_was_measured_keeps_its_bandwidth(tmp_path):
    found = forecast_study(on_four_hosts(tmp_path), [4], network=None, site=None)
    (row,) = found["rows"]
    allreduce_s = ring_s(GRADIENT_BYTES, 4, alpha_s=ALPHA_S, beta_s=BETA_S)
    assert row["step"]["allreduce_s"] == pytest.approx(allreduce_s, rel=0.02)
    low, likely, high = row["efficiency"]
    assert low < likely < high
    assert found["network"]["bandwidth_gb_s"] == pytest.approx(1e-9 / BETA_S, rel=0.02)


@pytest.mark.parametrize("name", ["ethernet-10g", "aries", "ib-hdr"])
def test_ranks_of_one_host_are_not_joined_by_the_network(name, tmp_path):
    study = measured(tmp_path)
    found = forecast_study(study, [2], network=name, site=None)
    together = dataclasses.replace(PRESETS[name], ranks_per_node=2)
    inside_s = together.allreduce_s(found["gradient_bytes"], 2)
    waited_s = found["spread"]["jitter"][1] * 0.5 * found["step_s"]
    assert found["fixed_s"] == pytest.approx(0.01 - found["step_s"] - inside_s - waited_s)


@pytest.mark.parametrize("text", ["", "[1]", "fast", "5"])
def test_a_network_file_without_keys_is_explained(text, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"my.yaml.*: a network is a block of 'key: value' lines, of title, bandwid"):
        load_network(str(path))


def test_one_process_alone_is_nothing_to_forecast_from(tmp_path):
    study = measured(tmp_path)
    for point in points(study.question()):
        if point.kind == "ranks":
            study.run_of("c", point).measurement.unlink()
    study.measurements.unlink()
    gather(study)
    with pytest.raises(ConfigError, match=r"has measured no number of ranks yet; hvdtrain scale --collect .*abcdef"):
        forecast_study(study, [4], network="aries", site=None)


def test_a_plan_that_is_gone_is_named(tmp_path):
    study = measured(tmp_path)
    plan = study.run_of("c", Point("ranks", 1, 0)).plan
    assert json.loads(plan.read_text()) == PLAN
    plan.unlink()
    with pytest.raises(NotFoundError, match=r"ranks_0001_repeat_1/plan.json is gone or damaged"):
        forecast_study(study, [4], network="aries", site=None)
