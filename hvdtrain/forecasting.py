"""From a study and a network to what more ranks would do."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from hvdtrain.cli.show import name_of
from hvdtrain.config_file import YamlFile
from hvdtrain.config_problems import complaints
from hvdtrain.config_types import PositiveFloat, PositiveInt, Section, Text
from hvdtrain.errors import ConfigError, NotFoundError
from hvdtrain.names import did_you_mean
from hvdtrain.report import model_of, sweeps_of
from hvdtrain.rundir import read_json, write_text
from hvdtrain.sites import Charge, Site, load_site
from hvdtrain.study.expand import RANKS, points
from hvdtrain.study.forecast import (
    Forecast,
    Layer,
    Spread,
    Workload,
    forecast,
    forecast_step,
    last_worthwhile,
    powers_up_to,
)
from hvdtrain.study.networks import PRESETS, Network
from hvdtrain.study.scaling_table import SizeRow, make_table
from hvdtrain.studydir import StudyDir

MIN_EFFICIENCY = 0.5
# Of a bandwidth that an allreduce was measured to have; `Spread` has those of a data sheet's.
MEASURED_WIRE_SHARE = (0.8, 1.0, 1.0)


class NetworkFile(Section):
    """A network of the user's own, as YAML."""

    title: Text = Field("a network of your own", description="For people.")
    bandwidth_gb_s: PositiveFloat = Field(description="GB/s of a node, one way.")
    latency_us: PositiveFloat = Field(description="Microseconds of a small message between nodes.")
    ranks_per_node: PositiveInt = Field(1, description="Ranks that share a node's link.")
    inside_gb_s: PositiveFloat = Field(10.0, description="GB/s between ranks of a node.")


def forecast_study(study: StudyDir, ranks: Sequence[int], *, network: str | None, site: str | None) -> dict[str, Any]:
    """Return, and keep in the study, what these numbers of ranks would do.

    Raises:
        NotFoundError: If there is no such network or site, or the plan of the study's first run is gone.
        ConfigError: If the study has measured no size yet, or only one host and no network is named.
    """
    if not study.has_sizes():
        raise ConfigError(
            f"study {study.short_id} has measured no number of ranks yet; hvdtrain scale --collect {name_of(study)}"
        )
    rows = study.rows()
    question, found = study.question(), make_table(study.question(), study.samples())
    largest = found.sizes[-1]
    chosen = load_network(network) if network is not None else measured_network(rows)
    profile = load_site(site, os.environ) if site is not None else None
    if profile is not None:  # the site's own nodes, whatever the network's usual ones are
        _, partition = profile.partition(None)
        chosen = dataclasses.replace(chosen, ranks_per_node=partition.gpus_per_node or 1)
    measured = next(row for row in rows if row["kind"] == RANKS and row["num_ranks"] == largest.num_ranks)
    plan = first_plan(study)
    workload, step_spread = workload_of(
        largest, measured["gradients"], num_groups=plan["config"]["horovod"]["num_groups"]
    )
    num_examples = plan["num_examples"] * plan["epochs"]
    workload = dataclasses.replace(workload, fixed_s=unexplained(largest, workload, chosen))
    is_strong = question.mode == "strong"
    batch = largest.global_batch_size / (1 if is_strong else largest.num_ranks)
    if is_strong:  # one rank would take as much longer as it has more examples
        workload = dataclasses.replace(workload, step_s=workload.step_s * largest.num_ranks)
    spread = Spread(step=step_spread)
    if network is None:
        spread = dataclasses.replace(spread, wire_share=MEASURED_WIRE_SHARE)
    arguments: dict[str, Any] = {
        "batch_size_per_rank": batch, "num_examples": num_examples, "spread": spread, "strong": is_strong,
    }  # fmt: skip
    wanted = forecast(workload, chosen, sorted(ranks), **arguments)
    curve = forecast(workload, chosen, powers_up_to(max(ranks)), **arguments)
    outcome = {
        "network": dataclasses.asdict(chosen),
        "measured_ranks": largest.num_ranks,
        "step_s": workload.step_s,
        "fixed_s": workload.fixed_s,
        "num_examples_per_epoch": plan["num_examples"],
        "gradient_bytes": workload.gradient_bytes,
        "overlaps": workload.overlaps,
        "batch_size_per_rank": batch,
        "is_strong": is_strong,
        "num_examples": num_examples,
        "spread": dataclasses.asdict(spread),
        "last_worthwhile": last_worthwhile(curve, MIN_EFFICIENCY),
        "rows": [dataclasses.asdict(one) for one in wanted],
        "curve": [dataclasses.asdict(one) for one in curve],
        "cost": costs(wanted, chosen, profile) if profile is not None else None,
    }
    write_text(study.forecast, json.dumps(outcome, indent=1) + "\n")
    return outcome


def first_plan(study: StudyDir) -> dict[str, Any]:
    """Return the plan of a study's first run, of the baseline.

    Raises:
        NotFoundError: If it is gone, or damaged.
    """
    path = study.run_of(study.read()["name"], points(study.question())[0]).plan
    plan = read_json(path)
    if not plan:
        raise NotFoundError(
            f"{path} is gone or damaged, and only it says how many examples are trained on; measure a new study: "
            "hvdtrain scale"
        )
    return plan


def load_network(name: str) -> Network:
    """Return a preset, or the network that a YAML file describes.

    Raises:
        NotFoundError: If there is none.
        ConfigError: With every problem of the file.
    """
    if not name.endswith((".yaml", ".yml")):
        if name not in PRESETS:
            hint = did_you_mean(name, PRESETS) or f"; known: {', '.join(PRESETS)}, or the path of a YAML file"
            raise NotFoundError(f"no network {name!r}{hint}")
        return PRESETS[name]
    if not Path(name).is_file():
        raise NotFoundError(f"network {name}: there is no such file")
    document = YamlFile(Path(name))
    if not isinstance(document.data, dict):
        keys = ", ".join(NetworkFile.model_fields)
        raise ConfigError(document.problems([((), f"a network is a block of 'key: value' lines, of {keys}")]))
    try:
        own = NetworkFile.model_validate(document.data)
    except ValidationError as error:
        raise ConfigError(
            document.problems((one.keys, one.message) for one in complaints(error, NetworkFile))
        ) from None
    return Network(name=Path(name).stem, source=name, **own.model_dump())


def measured_network(rows: Sequence[Mapping[str, Any]]) -> Network:
    """Return the network a study itself has measured, from its largest run on several hosts.

    Raises:
        ConfigError: If all of its runs were on one host, which says nothing of a network.
    """
    spread = [row for row in rows if row["num_nodes"] > 1 and row.get("allreduce")]
    if not spread:
        raise ConfigError(
            "this study was measured on one host, which says nothing about a network; name one: --network "
            f"{'|'.join(PRESETS)}, or a YAML file"
        )
    largest = max(spread, key=lambda row: int(row["num_ranks"]))
    model = model_of(next(one for one in sweeps_of(rows) if one["num_ranks"] == largest["num_ranks"]))
    if model is None:
        raise ConfigError("the study's allreduces have too few sizes for a fit; name a network: --network NAME")
    return Network(
        name="measured",
        title=f"as measured with {largest['num_ranks']} ranks on {largest['num_nodes']} hosts",
        source="the study",
        bandwidth_gb_s=1e-9 / max(model.beta_s, 1e-15),
        latency_us=1e6 * model.alpha_s,
        ranks_per_node=largest["num_ranks"] // largest["num_nodes"],
        wire_share=1.0,
    )


def workload_of(
    row: SizeRow, gradients: Sequence[Mapping[str, Any]], *, num_groups: int | None
) -> tuple[Workload, tuple[float, float, float]]:
    """Return one rank's step without communication, and factors for the ends of its interval.

    Args:
        row: The largest measured size: its ranks share their node as those of a larger run would.
        gradients: Name and bytes of each.
        num_groups: `horovod.num_groups`; several let gradients travel while others are still being computed.
    """
    share = row.to_ceiling.median if row.to_ceiling else 1.0
    step_s = 1e-3 * row.step_ms.median * share
    layers = tuple(Layer(gradient["bytes"], 1 / len(gradients)) for gradient in gradients)
    spread = (row.step_ms.high / row.step_ms.median, 1.0, row.step_ms.low / row.step_ms.median)
    return Workload(step_s, layers, overlaps=(num_groups or 1) > 1), spread


def unexplained(row: SizeRow, workload: Workload, network: Network) -> float:
    """Return what a measured step with other ranks takes beyond computing and what the model says for that size.

    The model is asked for the ranks as they were measured: those of one host are not joined by the network.
    """
    if row.num_ranks == 1:
        return 0.0
    likely = dataclasses.replace(workload, jitter=Spread().jitter[1])
    as_measured = dataclasses.replace(network, ranks_per_node=-(-row.num_ranks // row.num_nodes))
    model = forecast_step(likely, as_measured, row.num_ranks)
    return max(0.0, 1e-3 * row.step_ms.median - model.step_s)


def costs(wanted: Sequence[Forecast], network: Network, site: Site) -> dict[str, Any]:
    """Return what a site would charge for each forecast, in its default partition."""
    name, partition = site.partition(None)
    rate = rate_of(partition.charge, partition.gpus_per_node, partition.cores_per_node)
    return {
        "site": site.name,
        "partition": name,
        "unit": partition.charge.unit,
        "per_node_hour": rate,
        "charges": [one.node_hours * rate for one in wanted],
    }


def rate_of(charge: Charge, gpus: int, cores: int) -> float:
    """Return the units that a whole node costs in an hour."""
    return charge.per_node_hour + gpus * charge.per_gpu_hour + cores * charge.per_core_hour
