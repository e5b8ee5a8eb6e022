"""From a question to runs: interleaved, and with the batch that the mode asks for."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from hvdtrain.config_file import load_config
from hvdtrain.facts import assumed_facts
from hvdtrain.prepare import prepare
from hvdtrain.scale import _alike, _with_batch
from hvdtrain.study.expand import ONE_PROCESS, RANKS, Point, Question, cores_per_rank, overrides_of, points
from tests.conftest import PROJECT

CONFIG = str(PROJECT / "configs" / "digits_cnn.yaml")
QUESTION = Question(CONFIG, (1, 2, 4), "weak", 3, 10.0, 50, "real", cores_per_rank=1)


@given(repeats=st.integers(1, 6), alone=st.booleans())
def test_every_repeat_has_every_size_once(repeats, alone):
    found = points(replace(QUESTION, repeats=repeats, with_one_process=alone))
    sizes = {(RANKS, 1), (RANKS, 2), (RANKS, 4)} | ({(ONE_PROCESS, 1)} if alone else set())
    for repeat in range(repeats):
        mine = [(point.kind, point.num_ranks) for point in found if point.repeat == repeat]
        assert len(mine) == len(sizes)
        assert set(mine) == sizes
    assert len({point.name for point in found}) == len(found)


def test_weak_scaling_keeps_the_batch_of_a_rank():
    for point in points(QUESTION):
        config = load_config(CONFIG, overrides_of(QUESTION, point))
        assert config.training.batch_size_per_replica == 32
        assert config.launch.num_ranks == point.num_ranks
        assert config.measure is not None
        assert config.measure.seconds == 10


def test_weak_scaling_keeps_the_baselines_share_of_a_stated_global_batch():
    stated = ("training.batch_size_per_replica=null", "training.global_batch_size=64")
    question = _with_batch(replace(QUESTION, ranks=(2, 4), overrides=stated), assumed_facts(), None)
    plans = {point.num_ranks: one.plan for point, one in _alike(question, assumed_facts(), None)[1].items()}
    assert {ranks: plan.global_batch_size for ranks, plan in plans.items()} == {1: 32, 2: 64, 4: 128}


def test_strong_scaling_keeps_the_global_batch():
    question = replace(QUESTION, mode="strong", global_batch_size=64)
    for point in points(question):
        config = load_config(CONFIG, overrides_of(question, point))
        assert config.training.batch_size_per_replica is None
        assert config.training.global_batch_size == 64


def test_ranks_bring_their_cores_and_one_process_has_all():
    config = load_config(CONFIG, overrides_of(QUESTION, Point(RANKS, 1, 0)))
    assert (config.launch.strategy, config.launch.cores_per_rank) == ("single", 1)
    config = load_config(CONFIG, overrides_of(QUESTION, Point(ONE_PROCESS, 1, 0)))
    assert (config.launch.strategy, config.launch.cores_per_rank) == ("single", None)
    assert load_config(CONFIG, overrides_of(QUESTION, Point(RANKS, 2, 0))).launch.strategy == "horovod"


def test_the_users_own_changes_are_kept():
    question = replace(QUESTION, overrides=("training.batch_size_per_replica=16",))
    config = load_config(CONFIG, overrides_of(question, points(question)[0]))
    assert config.training.batch_size_per_replica == 16


def test_every_size_has_as_many_steps_in_a_call():
    question, prepared = _alike(QUESTION, assumed_facts(), None)
    assert question.steps_per_execution == 1
    assert {one.plan.steps_per_execution for one in prepared.values()} == {1}
    alone = [prepare(CONFIG, assumed_facts(), overrides=overrides_of(QUESTION, point)) for point in prepared]
    assert {one.plan.steps_per_execution for one in alone} == {1, 2, 4}


@given(ranks=st.lists(st.integers(1, 64), min_size=1), cores=st.integers(1, 256))
def test_the_largest_size_fits_the_machine_if_it_can(ranks, cores):
    each = cores_per_rank(ranks, cores)
    assert each >= 1
    assert each == 1 or each * max(ranks) <= cores


def test_nodes_of_a_cluster_are_filled_and_ranks_keep_their_cpus():
    question = replace(QUESTION, ranks=(1, 4, 8), site="x", ranks_per_node=4, cores_per_node=64, cores_per_rank=None)
    found = {}
    for point in points(question):
        slurm = load_config(CONFIG, overrides_of(question, point)).slurm
        found[point.kind, point.num_ranks] = (slurm.nodes, slurm.ranks_per_node, slurm.cpus_per_rank)
    ranks = {(RANKS, 1): (1, 1, 16), (RANKS, 4): (1, 4, 16), (RANKS, 8): (2, 4, 16)}
    assert found == {**ranks, (ONE_PROCESS, 1): (1, 1, 64)}
