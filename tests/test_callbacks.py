"""The user's callbacks on real ranks: no hang, files written once, one decision; see tests/ranks/callbacks.py."""

import pytest

from tests.conftest import missing
from tests.ranks.worlds import all_equal

# Every class of keras.callbacks and the files it leaves when each rank gives it paths of its own.
FILES = {
    "BackupAndRestore": ["by_0"],
    "CSVLogger": ["by_0.csv"],
    "Callback": [],
    "CallbackList": ["by_0.csv"],
    "EarlyStopping": [],
    "History": [],
    "LambdaCallback": None,  # runs on every rank: what it does there is the user's business
    "LearningRateScheduler": [],
    "ModelCheckpoint": ["by_0.1.weights.h5", "by_0.2.weights.h5", "by_0.3.weights.h5", "by_0.keras"],
    "OrbaxCheckpoint": ["by_0"],
    "ProgbarLogger": [],
    "ReduceLROnPlateau": [],
    "RemoteMonitor": [],
    "SwapEMAWeights": [],
    "TensorBoard": ["by_0"],
    "TerminateOnNaN": [],
}


@pytest.fixture
def found(results) -> list[dict]:
    return results.of("every_callback")


@pytest.fixture
def all_found(found) -> list[dict]:
    if len(found) != 2:
        pytest.skip("all callbacks are tried on 2 ranks, and those that decide on more")
    return found


def of(found: list[dict], name: str) -> list[dict]:
    return [value[name] for value in found]


def test_every_callback_of_keras_has_been_decided_about(found):
    undecided = [name for name, value in found[0].items() if "undecided" in value]
    assert not undecided, "a new callback: say in TRIALS and FILES what it does under several ranks"
    assert len(found[0]) >= (15 if len(found) == 2 else 4), "the walk over keras.callbacks found too little"


def test_no_callback_writes_twice(found):
    for name, value in found[0].items():
        if FILES[name] is not None and "not_installed" not in value:
            assert value["files"] == FILES[name], name
    if len(found) == 2:
        assert of(found, "LambdaCallback")[0]["files"] == ["by_0", "by_1"], "the control"
        assert [value["printed"] for value in of(found, "ProgbarLogger")] == [3, 0]
        assert [value["posts"] for value in of(found, "RemoteMonitor")] == [3, 0]


def test_after_every_callback_ranks_agree(found):
    for name, first in found[0].items():
        for key in ("epochs", "history", "bits", "learning_rate"):
            if key in first:
                assert all_equal([value[key] for value in of(found, name)]), f"{name}: {key}"


def test_callbacks_that_decide_do_what_they_do_in_one_process(found):
    first = found[0]
    assert first["EarlyStopping"]["epochs"] == [0, 1], "patience 1"
    assert first["EarlyStopping"]["is_best"]
    assert first["EarlyStopping"]["moved"]
    assert first["ReduceLROnPlateau"]["learning_rate"] == pytest.approx(0.1 * 0.5**2)
    assert first["ModelCheckpoint"]["kind"].startswith("keras."), "it loads without hvdtrain"
    assert all(value["as_if_uninterrupted"] for value in of(found, "BackupAndRestore"))
    assert first["BackupAndRestore"]["epochs"] == [1, 2]


def test_other_callbacks_do_what_they_do_in_one_process(all_found):
    first = all_found[0]
    assert first["LearningRateScheduler"]["learning_rate"] == pytest.approx(0.1 * 0.5**3)
    assert first["SwapEMAWeights"]["training_apart"] < 1e-5
    assert first["SwapEMAWeights"]["evaluates_the_average"]
    assert all_equal(of(all_found, "TerminateOnNaN"))
    # hvdtrain itself stops at the step with NaN, before a callback sees it.
    assert first["TerminateOnNaN"] == {"batches": [0, 0, 1], "error": "OutOfSyncError", "files": []}


@pytest.mark.parametrize(("name", "package"), [("OrbaxCheckpoint", "orbax-checkpoint"), ("TensorBoard", "tensorboard")])
def test_a_callback_with_a_package_of_its_own(all_found, name, package):
    values = of(all_found, name)
    assert [value["runs_here"] for value in values] == [True] + [False] * (len(values) - 1)
    if "not_installed" in values[0]:
        missing(package, f"{package} is not installed, so {name} has only been asked where it would run")
    assert values[0]["files"] == ["by_0"]


def test_control_a_rank_that_decides_alone_is_caught(results):
    values = results.of("callback_that_decides_alone")
    assert all_equal(values)
    assert "replicas out of sync at step 1" in values[0]["error"]


def test_a_callback_that_raises_on_all_ranks_leaves_them_able_to_go_on(results):
    values = results.of("callback_that_raises")
    assert all_equal(values)
    assert len(values[0]["raised"]) == 5


def test_callbacks_that_undo_checkpoints_are_refused(results):
    for value in results.of("callback_refusals"):
        assert "leave BackupAndRestore out" in value["both_restore"]
        assert "swap_on_epoch=True" in value["saves_average"]
        assert value["fine"] == ""
