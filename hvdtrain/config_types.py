"""The kinds of values a configuration or a site profile can hold, and what they are called in messages."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_DOTTED = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
IMPORT_PATH = rf"^{_DOTTED}:{_DOTTED}$"
RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
NO_NUL = r"^[^\x00]*$"
# What Slurm reads from an #SBATCH line, where nothing can be quoted reliably.
SLURM_WORD = r"^[A-Za-z0-9_/\[(][A-Za-z0-9_.,:/@+=\[\]&|*()~-]{0,254}$"
_SPAN = r"[0-9]{1,7}(-[0-9]{1,7}(:[1-9][0-9]{0,6})?)?"
SLURM_ARRAY = rf"^{_SPAN}(,{_SPAN})*(%[1-9][0-9]*)?$"
SLURM_MEMORY = r"^[1-9][0-9]*[KMGT]?$"
SBATCH_OPTION = r"^[a-z][a-z-]{1,40}$"
MODULE = r"^[A-Za-z0-9_][A-Za-z0-9_.+/-]{0,127}$"
ONE_LINE = r"^[^\x00-\x1f\x7f\x85\u2028\u2029]+$"
BIND = r"^/[^,\x00-\x1f\x7f\x85\u2028\u2029]*$"
ABSOLUTE = r"^/[^\x00-\x1f\x7f\x85\u2028\u2029]*$"

# What the patterns mean, for messages: "must be ...".
PATTERN_WORDS = {
    IMPORT_PATH: "an import path of the form 'package.module:function'",
    RUN_NAME: "1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit",
    ENV_NAME: "the name of an environment variable: letters, digits and '_', not beginning with a digit",
    NO_NUL: "text without NUL characters",
    SLURM_WORD: "one word as Slurm takes it in a job script: letters, digits and _.,:/@+=[]&|*()~-",
    SLURM_ARRAY: "a job array as Slurm writes it: '0-2', '1,3,5' or '0-9%2'",
    SLURM_MEMORY: "an amount of memory as Slurm writes it: '16G'",
    SBATCH_OPTION: "the long name of an sbatch option, without the dashes: 'licenses'",
    MODULE: "the name of an environment module: 'openmpi/5.0'",
    ONE_LINE: "one line of text",
    BIND: "an absolute path without commas",
    ABSOLUTE: "an absolute path",
}

Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(ge=1, strict=True)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, strict=True)]
Probability = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False, strict=True)]
Angle = Annotated[float, Field(ge=0, lt=90, allow_inf_nan=False, strict=True)]  # degrees
Seed = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Bool = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(min_length=1)]
ImportPath = Annotated[str, Field(pattern=IMPORT_PATH)]
EnvName = Annotated[str, Field(pattern=ENV_NAME)]
SlurmWord = Annotated[str, Field(pattern=SLURM_WORD)]
SlurmMemory = Annotated[str, Field(pattern=SLURM_MEMORY)]
Module = Annotated[str, Field(pattern=MODULE)]
OneLine = Annotated[str, Field(pattern=ONE_LINE)]
NonNegativeInt = Annotated[int, Field(ge=0, strict=True)]
LauncherName = Literal["auto", "mpirun", "srun", "native", "horovodrun", "none"]
EnvValue = Annotated[str, Field(pattern=NO_NUL)]


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _plain_data(value: Any, where: str = "") -> Any:
    """Return `value` if YAML and JSON can hold it unchanged."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"keys must be text; got {key!r}{where}")
            _plain_data(item, f" at {key!r}")
    elif isinstance(value, list):
        for item in value:
            _plain_data(item, where)
    elif not (value is None or isinstance(value, str | bool | int | float)):
        raise ValueError(f"can hold text, numbers, true, false, null, lists and mappings; got {value!r}{where}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"numbers must be finite; got {value}{where}")
    return value


Args = Annotated[dict[str, Any], AfterValidator(_plain_data)]
OptimizerName = Annotated[
    Literal[
        "sgd",
        "adam",
        "adamw",
        "adadelta",
        "adagrad",
        "adamax",
        "nadam",
        "rmsprop",
        "ftrl",
        "lamb",
        "lion",
        "adafactor",
        "muon",
    ],
    BeforeValidator(_lower),
]


class Section(BaseModel):
    """A block of the configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
