"""Scaling studies on this machine, for real, and what they leave behind."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hvdtrain.bench.statistics import estimate
from hvdtrain.errors import ConfigError
from hvdtrain.scale import collect, resume_here
from hvdtrain.study.expand import Point
from hvdtrain.studydir import StudyDir, find_study
from tests.browser import find_browser, open_page
from tests.conftest import PROJECT, missing
from tests.test_studydir import measured

DIGITS = str(PROJECT / "configs" / "digits_cnn.yaml")
QUICK = ("--seconds", "1", "--warmup-steps", "20", "--repeats", "1")


def hvdtrain(*words, cwd, code=0, timeout=400):
    result = subprocess.run(
        [sys.executable, "-m", "hvdtrain", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert code is None or result.returncode == code, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def scaled(tmp_path_factory, require_horovod):
    """A study of digits on 1 and 2 ranks, its folder, and what was printed."""
    folder = tmp_path_factory.mktemp("scale")
    result = hvdtrain("scale", DIGITS, "--ranks", "1,2", *QUICK, cwd=folder)
    return find_study("", folder / "studies"), folder, result


def test_every_size_was_measured_with_its_ceiling_and_parts(scaled):
    study, _, result = scaled
    rows = {(row["kind"], row["num_ranks"]): row for row in study.rows()}
    assert set(rows) == {("ranks", 1), ("ranks", 2), ("one process", 1)}
    for sample in study.samples():
        assert sample.examples_per_s > 0
        assert sample.ceiling_s is not None
        assert sum(sample.parts.values()) == pytest.approx(sample.step_s)
        assert 0 < (sample.share_of_peak or 0) < 1.5, "operations were counted, and no rank beats the peak by much"
    assert len(rows["ranks", 2]["ranks"]) == 2
    assert rows["ranks", 1]["ranks"][0]["cores"] != rows["one process", 1]["ranks"][0]["cores"] or os.cpu_count() == 1
    assert "efficiency" in result.stdout
    assert "of a step is computing" in result.stdout


def test_operations_per_example_do_not_depend_on_the_ranks(scaled):
    counts = {row["flop_per_example"] for row in scaled[0].rows()}
    assert len(counts) == 1
    assert counts.pop() > 1e5, "two small convolutions, forward and backward"


def test_each_run_with_several_ranks_swept_its_allreduce(scaled):
    sweep = next(row["allreduce"] for row in scaled[0].rows() if row["num_ranks"] == 2)
    assert {row["way"] for row in sweep["rows"]} >= {"horovod"}
    assert all(row["is_right"] for row in sweep["rows"])


def test_all_forms_of_the_report_agree(scaled):
    study: StudyDir = scaled[0]
    with open(study.table("csv"), encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    table = json.loads(study.table("json").read_text())
    for line, row in zip(lines, table["rows"], strict=True):
        assert float(line["examples_per_s"]) == row["examples_per_s"]["median"]
        shown = f"{row['examples_per_s']['median']:,.0f}"
        assert shown in study.table("md").read_text()
        assert shown in study.report.read_text()
    for name in ("throughput", "efficiency", "step", "allreduce"):
        assert (study.plots / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (study.plots / f"{name}.svg").read_text().startswith("<svg")


def test_the_report_is_one_file_that_a_browser_draws_without_complaint(scaled):
    study, folder, _ = scaled
    if find_browser() is None:
        missing("browser", "there is no Chromium")
    hvdtrain("forecast", "--ranks", "64,27360", "--network", "ib-edr-dual", cwd=folder)
    text = study.report.read_text()
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "src=" not in text
    opened = open_page(study.report, "figure")
    assert opened.console == []
    assert [item["id"] for item in opened.items] == [
        f"plot-{name}" for name in ("throughput", "efficiency", "step", "allreduce", "forecast")
    ]
    for item in opened.items:
        assert item["width"] > 300
        assert item["height"] > 150
        assert item["paths"] > 5, f"{item['id']} is empty"


def test_the_browser_control_sees_an_empty_plot_and_a_broken_page(tmp_path):
    if find_browser() is None:
        missing("browser", "there is no Chromium")
    page = tmp_path / "page.html"
    page.write_text("<html><body><figure id='plot-x'><svg></svg></figure><script>oops()</script></body></html>")
    opened = open_page(page, "figure")
    assert opened.items[0]["paths"] == 0
    assert any("oops" in line for line in opened.console)


def test_a_forecast_needs_a_network_that_was_measured_or_named(scaled):
    _, folder, _ = scaled
    result = hvdtrain("forecast", "--ranks", "64", cwd=folder, code=2)
    assert "measured on one host" in result.stderr
    assert "roce-25g" in result.stderr
    result = hvdtrain("forecast", "--ranks", "64", "--network", "roce-25", cwd=folder, code=4)
    assert "did you mean 'roce-25g'" in result.stderr
    result = hvdtrain(
        "forecast", "--ranks", "64,512", "--network", "roce-25g", "--site", "bridges2", "--json", cwd=folder
    )
    found = json.loads(result.stdout)
    assert [row["num_ranks"] for row in found["rows"]] == [64, 512]
    assert found["cost"]["site"] == "bridges2"
    assert [row["nodes"] for row in found["rows"]] == [8, 64], "its nodes have 8 GPUs"
    result = hvdtrain("forecast", "--ranks", "512", "--network", "roce-25g", cwd=folder)
    assert "these data are too few" in result.stdout


def test_a_forecast_of_what_was_measured_is_what_was_measured(scaled):
    study, folder, _ = scaled
    result = hvdtrain("forecast", "--ranks", "2", "--network", "ib-hdr", "--json", cwd=folder)
    row = json.loads(result.stdout)["rows"][0]
    measured = next(sample for sample in study.samples() if sample.num_ranks == 2)
    low, _, high = row["examples_per_s"]
    # Its parts were measured one after the other, beside other tests.
    assert low <= measured.examples_per_s * 1.5
    assert high >= measured.examples_per_s / 1.5


@pytest.mark.thorough
def test_a_study_goes_on_where_it_was_interrupted(tmp_path):
    command = [sys.executable, "-m", "hvdtrain", "scale", DIGITS, "--ranks", "1", *QUICK]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("studies/*/*/runs/*/*/measurement.json")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == 130, talk
    study = find_study("", tmp_path / "studies")
    assert len(study.rows()) == 1
    assert f"hvdtrain scale --resume {study.short_id}" in talk
    result = hvdtrain("scale", "--resume", study.short_id, cwd=tmp_path)
    assert len(find_study("", tmp_path / "studies").rows()) == 2
    assert "1/1" in result.stderr, "what was measured is not measured again"


def test_jobs_of_a_site_are_not_run_here(tmp_path):
    study = measured(tmp_path, site="far")
    queued = study.run_of("c", Point("ranks", 2, 0))
    queued.measurement.unlink()
    study.measurements.unlink()
    with pytest.raises(ConfigError, match=r"are jobs of site far; .*hvdtrain scale --collect .*abcdef"):
        resume_here(study)
    assert queued.plan.exists()


def test_sizes_of_two_configurations_are_not_mixed(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(Path(DIGITS).read_text())
    study = measured(tmp_path, config=str(config))
    study.config.write_text(config.read_text())
    config.write_text(config.read_text() + "# changed\n")
    with pytest.raises(ConfigError, match=r"c\.yaml has changed since study abcdef began; what it was is in .*config"):
        resume_here(study)


def test_one_process_alone_is_no_report_yet(tmp_path, capsys):
    study = measured(tmp_path)
    for num_ranks in (1, 2):
        study.run_of("c", Point("ranks", num_ranks, 0)).measurement.unlink()
    study.measurements.unlink()
    assert collect(study, wait=False) == 1
    assert "no number of ranks has been measured yet" in capsys.readouterr().err
    assert not study.report.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scale"], "needs a configuration and --ranks"),
        (["scale", DIGITS], "needs a configuration and --ranks"),
        (["scale", DIGITS, "--ranks", "1,x"], "numbers of ranks"),
        (["scale", DIGITS, "--ranks", "0,2"], "numbers of ranks"),
        (["scale", DIGITS, "--ranks", "1,2", "--submit"], "--site"),
        (["scale", DIGITS, "--ranks", "1,2", "--wait"], "--wait and --ranks-per-node are for batch jobs"),
        (["scale", DIGITS, "--ranks", "1", "--collect", "x"], f"and --studies alone; got {DIGITS}, --ranks"),
        (["scale", "--resume", "x", "--repeats", "3", "--wait"], "takes --studies alone; got --repeats, --wait"),
        (["scale", DIGITS, "--ranks", "1,4096"], "the data cannot fill one global batch"),
        (["scale", "nowhere.yaml", "--ranks", "1"], "nowhere.yaml"),
        (["compare", "a", "b"], "no study 'a'"),
        (["allreduce", "--sizes", "5"], "multiples of 4"),
        (["allreduce", "--ranks", "1"], "1"),
        (["allreduce", "--out", "nowhere/found.json"], "there is no directory nowhere"),
    ],
)
def test_bad_input_is_explained_before_anything_starts(words, said, tmp_path):
    result = hvdtrain(*words, cwd=tmp_path, code=None)
    assert result.returncode in (2, 4), result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("studies/*/*"))


@pytest.mark.thorough
def test_a_size_that_fails_does_not_take_the_others_along(tmp_path, require_horovod):
    (tmp_path / "mine.py").write_text(
        "import os\n"
        "from hvdtrain.workshop.models import digits_cnn\n"
        "def build():\n"
        "    if os.environ['HVDTRAIN_NUM_RANKS'] == '2':\n"
        "        raise RuntimeError('not with two')\n"
        "    return digits_cnn()\n"
    )
    config = (PROJECT / "configs" / "digits_cnn.yaml").read_text()
    (tmp_path / "c.yaml").write_text(config.replace("hvdtrain.workshop.models:digits_cnn", "mine:build"))
    result = hvdtrain("scale", "c.yaml", "--ranks", "1,2", "--no-one-process", *QUICK, cwd=tmp_path, code=1)
    assert "not with two" in result.stderr
    (row,) = find_study("", tmp_path / "studies").rows()
    assert (row["kind"], row["num_ranks"]) == ("ranks", 1)


def test_allreduce_is_measured_checked_and_fitted(tmp_path, require_horovod):
    words = ("allreduce", "--sizes", "1KiB:4MiB", "--seconds", "0.02", "--out", "found.json")
    result = hvdtrain(*words, cwd=tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    assert {row["way"] for row in found["rows"]} == {"horovod", "hvdtrain", "mpi"}
    assert all(row["is_right"] and row["seconds"] > 0 for row in found["rows"])
    assert found["gamma_s"] > 0
    for word in ("algbw GB/s", "busbw GB/s", "alpha", "shared memory"):
        assert word in result.stdout


def test_an_interval_of_one_repeat_is_a_point():
    found = estimate([2.0])
    assert found is not None
    assert (found.low, found.median, found.high) == (2.0, 2.0, 2.0)
