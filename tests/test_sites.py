"""Site profiles: found, read, refused with lines, drafted."""

import os

import pytest

from hvdtrain.cli.options import changes_of
from hvdtrain.config_file import load_config
from hvdtrain.errors import ConfigError, NotFoundError
from hvdtrain.schedulers.draft import draft_site, parse_sinfo
from hvdtrain.schedulers.layout import make_layout
from hvdtrain.sites import load_site, site_files, user_folder
from hvdtrain.study.expand import Question, overrides_of, points
from tests.conftest import PROJECT

SITES = sorted((PROJECT / "configs" / "sites").glob("*.yaml"))
DIGITS = str(PROJECT / "configs" / "digits_cnn.yaml")
GOOD = """\
name: mine
description: a cluster
checked: never
default_partition: main
partitions:
  main: {nodes: 4, cores_per_node: 8}
"""


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.stem)
def test_shipped_profiles_load_and_say_whether_they_were_tried(path):
    site = load_site(str(path), {})
    assert site.name == path.stem
    assert len(site.checked) > 10


def test_a_profile_is_found_by_name_and_ones_own_comes_first(tmp_path):
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    folder = user_folder(environ)
    folder.mkdir(parents=True)
    assert load_site("bridges2", environ).description.startswith("Pittsburgh")
    (folder / "bridges2.yaml").write_text(GOOD)
    assert load_site("bridges2", environ).description == "a cluster"
    assert dict(site_files(environ))["bridges2"] == folder / "bridges2.yaml"


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(NotFoundError, match="did you mean 'bridges2'"):
        load_site("bridge2", {"HOME": "/nowhere"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("nodes: 4", "ndoes: 4"), "partitions.main.ndoes: unknown key; did you mean 'nodes'?"),
        (("nodes: 4", "nodes: four"), "6: partitions.main.nodes: must be a whole number >= 1; got 'four'"),
        (("default_partition: main", "default_partition: maim"), "4: default_partition: 'maim' is not among"),
        (("checked: never\n", ""), "checked: missing"),
        (("name: mine", "name: mine\nname: yours"), "2: name: "),
        (("main: {", "'a b': {"), "partitions"),
        (("description: a cluster", "shared: [relative/path]\ndescription: a"), "shared[0]: must be an absolute path"),
        (("description: a cluster", "modules: ['a; rm -rf ~']\ndescription: a"), "modules[0]: must be the name of an"),
    ],
)
def test_a_wrong_profile_is_refused_with_its_line(tmp_path, change, message):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace(*change))
    with pytest.raises(ConfigError) as caught:
        load_site(str(path), {})
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}:")


def layout(*overrides, site=None):
    config = load_config(PROJECT / "configs" / "digits_cnn.yaml", overrides)
    return make_layout(config, site or load_site(str(PROJECT / "configs/sites/bridges2.yaml"), {}))


def test_without_a_number_of_ranks_there_is_one_per_gpu():
    found = layout("launch.num_ranks=null", "slurm.nodes=2")
    assert (found.num_ranks, found.ranks_per_node, found.gpus_per_node, found.cpus_per_rank) == (16, 8, 8, 5)


def test_with_a_number_of_ranks_they_are_spread_evenly():
    found = layout("launch.num_ranks=8", "slurm.nodes=2")
    assert (found.ranks_per_node, found.gpus_per_node) == (4, 4)


def test_a_single_process_takes_its_node():
    found = layout("launch.num_ranks=1", "launch.strategy=mirrored", "slurm.gpus_per_node=8")
    assert (found.num_ranks, found.gpus_per_node, found.cpus_per_rank) == (1, 8, 40)


def test_ranks_that_do_not_divide_over_nodes_are_refused():
    with pytest.raises(ConfigError, match=r"3 ranks .* do not divide over 2 nodes"):
        layout("launch.num_ranks=3", "slurm.nodes=2")


SINFO = """\
RM*|488|128|253000+|(null)|3-00:00:00|EXCLUSIVE
GPU|24|40|512000|gpu:v100-32:8(S:0-1)|2-00:00:00|EXCLUSIVE
GPU|9|48|192000|gpu:v100-16:8|2-00:00:00|EXCLUSIVE
debug|2|16|64000|(null)|infinite|NO
"""


def test_a_draft_takes_what_fits_every_node_of_a_partition():
    found = parse_sinfo(SINFO)
    assert list(found) == [("RM", True), ("GPU", False), ("debug", False)]
    gpu = found["GPU", False]
    assert (gpu["nodes"], gpu["cores_per_node"], gpu["memory_gb"], gpu["max_time_min"]) == (33, 40, 187, 2880)
    assert "max_time_min" not in found["debug", False]
    assert not found["debug", False]["whole_nodes"]


def test_names_that_look_like_numbers_are_names(tmp_path, monkeypatch):
    for program, said in {"sinfo": "64*|2|16|64000|(null)|infinite|NO", "srun": "pmix"}.items():
        (tmp_path / program).write_text(f"#!/bin/bash\necho '{said}'\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    profile = tmp_path / "my: sites #1" / "2024.yaml"
    profile.parent.mkdir()
    profile.write_text(draft_site("2024"))
    assert load_site(str(profile), {}).default_partition == "64"
    for name in ("2024", str(profile)):
        config = load_config(DIGITS, changes_of(None, None, None, (), site=name).overrides)
        assert config.slurm.site == name
        question = Question(DIGITS, (1, 2), "weak", 1, 10, 50, "real", site=name)
        assert load_config(DIGITS, overrides_of(question, points(question)[0])).slurm.site == name


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n", "3\n"])
def test_a_file_that_is_no_profile_is_refused_in_words(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="a site profile is a block"):
        load_site(str(path), {})


def test_gpus_of_a_mixed_partition_are_those_of_every_node():
    mixed = "GPU|4|40|512000|gpu:a100:4|1:00:00|NO\nGPU|4|40|512000|gpu:v100:8|1:00:00|NO\n"
    shape = parse_sinfo(mixed)["GPU", False]
    assert (shape["gpus_per_node"], shape["gpu_types"]) == (4, ["a100", "v100"])
    without = "X|4|40|512000|(null)|1:00:00|NO\nX|4|40|512000|gpu:v100:8|1:00:00|NO\n"
    assert parse_sinfo(without)["X", False]["gpus_per_node"] == 0
