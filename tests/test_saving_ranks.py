"""Saving beside the training on real ranks: rank 0 alone writes, and all ranks refuse alike."""


def test_rank_0_alone_writes_every_step_as_it_was(results):
    values = results.of("saves_beside_training")
    steps = list(range(1, 9))
    assert values[0]["told"] == [f"step_{step:08d}" for step in steps]
    assert all(value["told"] == [] for value in values[1:])
    for value in values:
        assert [step for step, _ in value["saved"]] == steps
        assert value["saved"] == value["seen"], "each rank held, at that step, the bits that rank 0 saved"
        assert value["totals"] == [results.size], "metric totals within an epoch are those of all ranks"


def test_a_directory_with_later_checkpoints_is_refused_on_all_ranks(results):
    assert all("step_00000008 is of a later step" in v["refused"] for v in results.of("saves_beside_training"))
