"""The only place where shell text is made: quoting, and the job script.

Everything a script holds passes through `quote`; values of the user's environment are never written
into it, only the names of those passed on.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from hvdtrain.errors import ConfigError
from hvdtrain.launch.request import Expansion, Setting

# What a rank sees of the caller's environment, by name. Secrets stay behind because they are not named here.
PASSED_NAMES = (
    "HOME", "USER", "LOGNAME", "PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX",
    "LANG", "LC_ALL", "TZ", "TERM", "COLUMNS", "NO_COLOR", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME",
    "CUDA_VISIBLE_DEVICES", "KERAS_HOME", "HVDTRAIN_DATA", "HVDTRAIN_PROGRESS", "OPAL_PREFIX", "PMIX_PREFIX",
    "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE",
)  # fmt: skip


def quote(token: str) -> str:
    """Return the token so that bash reads back exactly this text; an `Expansion` is shell text already.

    Raises:
        ConfigError: For a NUL character, which no command line can hold.

    >>> quote("a b"), quote("plain"), quote("$(rm x)")
    ("'a b'", 'plain', "'$(rm x)'")
    """
    if isinstance(token, Expansion):
        return str(token)
    if "\0" in token:
        raise ConfigError(f"{token!r} holds a NUL character, which a command line cannot")
    quoted = shlex.quote(token)
    return f"'{token}'" if quoted == token and "," in token else quoted  # in a list a comma looks like a mistake


def comment(text: str) -> str:
    """Return the text as one comment line; control characters cannot end the comment.

    >>> comment("a\\nrm x")
    '# a rm x'
    """
    return "# " + re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]+", " ", text)


@dataclass(frozen=True)
class Script:
    """A job script before it is text.

    Args:
        title: First comment line.
        origin: The command that prints this script.
        new_run: Command that makes a run directory and prints its path; empty for a user's own script.
        pass_names: Further environment names passed on.
        env: NAME=VALUE settings for the ranks.
        launch: The launcher and its options.
        forwards: Whether the launcher must be told which variables hosts get that it reaches by ssh.
        container: What starts a container around the command; batch scripts only.
        command: The command every rank runs. With `new_run`, `{python}` and `{run_dir}` stand for the script's
            variables; the words of a user's own command stand for themselves.
    """

    title: str
    origin: str
    new_run: tuple[str, ...] = ()
    pass_names: tuple[str, ...] = ()
    env: tuple[Setting, ...] = ()
    launch: tuple[Setting, ...] = ()
    command: tuple[str, ...] = ()
    forwards: bool = False
    container: tuple[Setting, ...] = ()
    notes: tuple[str, ...] = field(default=())


def script_text(script: Script, *, explain: bool = False) -> str:
    """Return the script, byte for byte what `run` executes; with `explain` the reason stands above each line."""
    parts = [_head(script), _variables(script), _passed(script, explain)]
    parts.append(array("rank_env", script.env, explain))
    parts.append(array("launch", script.launch, explain))
    if script.forwards:
        parts.append(_forwarded(explain))
    parts.append(_last_line(script))
    return "\n".join(part for part in parts if part)


def _head(script: Script) -> str:
    lines = ["#!/usr/bin/env bash", comment(script.title), comment(f"Printed by: {script.origin}")]
    lines += [comment(note) for note in script.notes]
    return "\n".join([*lines, "set -euo pipefail", ""])


def _variables(script: Script) -> str:
    lines = ["python=${HVDTRAIN_PYTHON:-python3}"]
    if script.new_run:
        make = " ".join(quote(token) for token in script.new_run)
        lines.append(f'run_dir=${{1:-$("$python" -m hvdtrain {make})}}')
    return "\n".join([*lines, ""])


def _passed(script: Script, explain: bool) -> str:
    names = passed_names(script)
    lines = [comment("Ranks start from an empty environment: only these names are passed on.")] if explain else []
    lines += ["passed=()", "for name in " + wrap(names) + "; do"]
    lines += ['  if [ -n "${!name+set}" ]; then passed+=("$name=${!name}"); fi', "done", ""]
    return "\n".join(lines)


def _forwarded(explain: bool) -> str:
    reason = comment("Other hosts get the same variables: mpirun takes their names, not their values.")
    lines = [reason] if explain else []
    lines += ['for pair in "${passed[@]}" "${rank_env[@]}"; do launch+=(-x "${pair%%=*}"); done']
    return "\n".join(lines)


def passed_names(script: Script) -> list[str]:
    """Return the names of the caller's variables that ranks see."""
    return [*PASSED_NAMES, *(name for name in script.pass_names if name not in PASSED_NAMES)]


def wrap(names: Sequence[str], per_line: int = 8) -> str:
    """Return names as words of a shell, a few on each line."""
    rows = [" ".join(names[i : i + per_line]) for i in range(0, len(names), per_line)]
    return " \\\n  ".join(rows)


def array(name: str, settings: Sequence[Setting], explain: bool) -> str:
    """Return an assignment to a bash array, with `explain` with the reason above each line."""
    if not settings:
        return f"{name}=()"
    lines = [f"{name}=("]
    for setting in settings:
        if explain:
            lines.append("  " + comment(setting.reason))
        lines.append("  " + " ".join(quote(token) for token in setting.tokens))
    return "\n".join([*lines, ")"])


def _last_line(script: Script) -> str:
    variables = {"{python}": '"$python"', "{run_dir}": '"$run_dir"'} if script.new_run else {}
    command = " ".join(variables.get(token, "") or quote(token) for token in script.command)
    stdin = " </dev/null" if script.new_run else ""
    return f'\nexec env -i "${{passed[@]}}" "${{rank_env[@]}}" "${{launch[@]}}" {command}{stdin}\n'
