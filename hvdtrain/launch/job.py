"""From a plan to the job script, for a configuration and for a user's own script. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from hvdtrain.launch import LAUNCHERS
from hvdtrain.launch.request import LaunchRequest, Setting
from hvdtrain.launch.shell import Script
from hvdtrain.plan import DEFAULT_CYCLE_TIME_MS, Plan


def worker_environment(
    num_ranks: int,
    cores_per_rank: int,
    cycle_time_ms: float,
    *,
    is_deterministic: bool = False,
    num_threads: int | None = None,
) -> list[Setting]:
    """Return what every rank's environment holds besides the names passed on."""
    threads = f"{cores_per_rank} core{'s' if cores_per_rank > 1 else ''} per rank: one computing thread on each"
    if num_threads is None:
        num_threads = cores_per_rank
    else:
        threads = "launch.threads_per_rank"
    if is_deterministic:
        threads, num_threads = "training.deterministic: one thread, so that sums are the same on any number of cores", 1
    settings = [
        Setting(("KERAS_BACKEND=tensorflow",), "Horovod's operations are TensorFlow's"),
        Setting((f"TF_NUM_INTRAOP_THREADS={num_threads}",), threads),
        _interop(cores_per_rank, is_deterministic=is_deterministic),
        Setting((f"OMP_NUM_THREADS={num_threads}",), "the same for OpenMP libraries below NumPy"),
        Setting(("TF_CPP_MIN_LOG_LEVEL=1",), "TensorFlow's start-up notes off, its warnings on"),
        Setting(("PYTHONUNBUFFERED=1",), "a log line is on disk when it was printed"),
        Setting((f"HVDTRAIN_NUM_RANKS={num_ranks}",), "each rank compares this with the world it wakes up in"),
        Setting((f"HVDTRAIN_CORES_PER_RANK={cores_per_rank}",), "each rank binds itself to this many cores"),
    ]
    if num_ranks > 1:
        settings.append(
            Setting(
                (f"HOROVOD_CYCLE_TIME={cycle_time_ms:g}",),
                "ms Horovod sleeps before it looks for gradients; its default of 1 is longer than a small model's step",
            )
        )
    return settings


def _interop(cores_per_rank: int, *, is_deterministic: bool) -> Setting:
    if is_deterministic:
        return Setting(("TF_NUM_INTEROP_THREADS=1",), "one operation after the other")
    if cores_per_rank == 1:
        return Setting(("TF_NUM_INTEROP_THREADS=1",), "one: a second thread would only take turns on the one core")
    return Setting(("TF_NUM_INTEROP_THREADS=2",), "two operations at a time, each on all cores of the rank")


def config_script(
    plan: Plan,
    config_path: str,
    options: Sequence[str] = (),
    *,
    extra_env: Sequence[Setting] = (),
    srun_mpi: str = "pmix",
) -> Script:
    """Return the job script of one configuration.

    Args:
        plan: The run's numbers.
        config_path: The configuration as the user named it.
        options: The command-line options that changed it, to be repeated.
        extra_env: Further variables for the ranks.
        srun_mpi: What srun offers to the ranks, where it starts them.
    """
    slurm = plan.config["slurm"]
    request = LaunchRequest(
        plan.num_ranks,
        plan.num_cores,
        plan.num_nodes,
        srun_mpi if slurm["mpi"] == "auto" else slurm["mpi"],
        slurm["cpu_bind"] or "none",
        slurm["gpu_bind"],
        plan.config["launch"]["hostfile"],
        yields if isinstance(yields := plan.config["launch"]["yield_when_idle"], bool) else None,
    )
    launcher = LAUNCHERS[plan.launcher]
    user_env = [Setting((f"{name}={value}",), "launch.env") for name, value in plan.config["launch"]["env"].items()]
    horovod = plan.config["horovod"]["fusion_threshold_mb"]
    if horovod != "auto":
        user_env.append(
            Setting((f"HOROVOD_FUSION_THRESHOLD={int(horovod * 2**20)}",), "horovod.fusion_threshold_mb, in bytes")
        )
    reduction = plan.config["horovod"]["reduction"]
    if reduction != "auto":
        user_env.append(Setting((f"HVDTRAIN_REDUCTION={reduction}",), "horovod.reduction"))
    return Script(
        title=f"{plan.name}: {_who(plan, launcher.title)}",
        origin=" ".join(["hvdtrain render", config_path, *options]),
        notes=("Usage: bash THIS_FILE [RUN_DIR]; without RUN_DIR a new run directory is made.",),
        new_run=("plan", config_path, *options, "--new-run"),
        pass_names=tuple(plan.config["launch"]["pass_env"]),
        env=(
            *worker_environment(
                plan.num_ranks,
                plan.cores_per_rank,
                plan.cycle_time_ms,
                is_deterministic=plan.config["training"]["deterministic"],
                num_threads=plan.config["launch"]["threads_per_rank"],
            ),
            *launcher.environment(request),
            *extra_env,
            *user_env,
        ),
        launch=tuple(launcher.tokens(request)),
        forwards=request.hostfile is not None and plan.launcher.startswith("openmpi"),
        command=("{python}", "-m", "hvdtrain.train", "{run_dir}"),
    )


def _who(plan: Plan, launcher_title: str) -> str:
    if plan.strategy == "mirrored":
        return f"MirroredStrategy on {plan.num_devices} device{'s' if plan.num_devices > 1 else ''} of one machine"
    if plan.strategy == "single":
        return "one process"
    nodes = f" on {plan.num_nodes} nodes" if plan.num_nodes > 1 else ""
    return f"{plan.num_ranks} rank{'s' if plan.num_ranks > 1 else ''}{nodes}, {launcher_title}"


def command_script(command: Sequence[str], *, num_ranks: int, num_cores: int, launcher: str) -> Script:
    """Return the job script of a user's own command."""
    request = LaunchRequest(num_ranks, num_cores)
    chosen = LAUNCHERS[launcher]
    cores_per_rank = max(1, num_cores // num_ranks)
    environment = worker_environment(num_ranks, cores_per_rank, DEFAULT_CYCLE_TIME_MS)
    return Script(
        title=f"{num_ranks} rank{'s' if num_ranks > 1 else ''}, {chosen.title}",
        origin=f"hvdtrain run --ranks {num_ranks} --dry-run -- COMMAND",
        env=(*environment, *chosen.environment(request)),
        launch=tuple(chosen.tokens(request)),
        command=tuple(command),
    )
