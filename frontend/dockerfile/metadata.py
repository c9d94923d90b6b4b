"""The fold of metadata instructions over an image config: ENV, LABEL, ARG, CMD, USER and the like.

Each instruction changes the `Draft` of a stage and yields its history text. Knows no graph.
"""

from __future__ import annotations

import posixpath

from cache.hints import TYPE_CHECKING, Self
from cache.spec.config import DEFAULT_PATH, Healthcheck, ImageConfig
from cache.value import replace
from frontend.dockerfile import history
from frontend.dockerfile.environment import Environment
from frontend.dockerfile.ports import parse_ports
from frontend.dockerfile.problems import MistakeError
from frontend.dockerfile.signals import is_signal

if TYPE_CHECKING:
    from collections.abc import Callable

    from cache.spec.oci import Platform
    from frontend.dockerfile.environment import Expander
    from frontend.dockerfile.problems import Budget
    from frontend.dockerfile.syntax import (
        Command,
        HealthcheckInstruction,
        Pairs,
        Process,
        Text,
        Words,
    )

_DEFAULT_SHELL = ("/bin/sh", "-c")
_WINDOWS = "windows"
_WINDOWS_SHELL = ("cmd", "/S", "/C")


def _absolute(config: ImageConfig) -> str:
    """The working directory of a base; one that is relative is joined to itself, as by BuildKit."""
    path = config.working_dir or "/"
    if path.startswith("/") or config.platform.os == _WINDOWS:
        return path
    return clean(f"/{path}/{path}")


class Draft:
    """The image config of a stage while its instructions are applied."""

    def __init__(self, config: ImageConfig, budget: Budget) -> None:
        """Start from a base image's config (F04); its PATH, or the default one, is kept (F05).

        Windows has no default PATH, and another shell (T11).
        """
        env = dict(config.env)
        if config.platform.os != _WINDOWS:
            env.setdefault("PATH", DEFAULT_PATH)
        self.environment = Environment(env.items(), budget)
        self.config = replace(config, created="", working_dir=_absolute(config))
        self.labels = dict(config.labels)
        self.ports = dict.fromkeys(config.exposed_ports)
        self.volumes = dict.fromkeys(config.volumes)
        self.triggers = list(config.on_build)
        self._budget = budget
        self._cmd_set = False
        self.has_workdir = bool(config.working_dir)  # "/" is not stored unless someone said so

    @classmethod
    def scratch(cls, platform: Platform, budget: Budget) -> Self:
        """Start from nothing (F05)."""
        return cls(ImageConfig(platform=platform, working_dir="/"), budget)

    def child(self) -> Self:
        """Copy for a stage built FROM this one."""
        self._budget.spend(len(self.labels) + len(self.ports) + len(self.volumes))
        copy = type(self)(self.config, self._budget)
        copy.environment = self.environment.child()
        copy.labels = dict(self.labels)
        copy.ports = dict(self.ports)
        copy.volumes = dict(self.volumes)
        copy.triggers = list(self.triggers)
        copy.has_workdir = self.has_workdir
        return copy

    def take_triggers(self) -> tuple[str, ...]:
        """Remove and return the ONBUILD triggers: they run once, in the next stage (I13)."""
        triggers, self.triggers = tuple(self.triggers), []
        return triggers

    def add_trigger(self, text: str) -> None:
        """ONBUILD: stored as written, no history (I13)."""
        self.triggers.append(text)

    @property
    def shell(self) -> tuple[str, ...]:
        """What shell-form commands are given to (I10)."""
        default = _WINDOWS_SHELL if self.config.platform.os == _WINDOWS else _DEFAULT_SHELL
        return self.config.shell or default

    def argv(self, command: Command) -> tuple[str, ...]:
        """Arguments of a command: as they are, or the shell and one text (R01)."""
        return (*self.shell, *command.words) if command.shell_form else command.words

    def set_env(self, pairs: Pairs, expand: Expander) -> str:
        """ENV: every pair sees the environment before the line (V20)."""
        expanded = _expanded(pairs, expand)
        for name, value in expanded:
            self.environment.set(name, value)
        return history.pairs_text("ENV", expanded)

    def set_labels(self, pairs: Pairs, expand: Expander) -> str:
        """LABEL: last wins (I02)."""
        expanded = _expanded(pairs, expand)
        self.labels.update(expanded)
        return history.pairs_text("LABEL", expanded)

    def set_cmd(self, process: Process) -> str:
        """CMD (I11)."""
        argv = self.argv(process.command)
        self.config = replace(self.config, cmd=argv, args_escaped=True)
        self._cmd_set = True
        return f"CMD {history.quoted_list(argv)}"

    def set_entrypoint(self, process: Process) -> str:
        """ENTRYPOINT: an inherited CMD is dropped, one of this stage is kept (I12)."""
        argv = self.argv(process.command)
        cmd = self.config.cmd if self._cmd_set else None
        self.config = replace(self.config, entrypoint=argv, cmd=cmd)
        return f"ENTRYPOINT {history.quoted_list(argv)}"

    def set_shell(self, words: Words) -> str:
        """SHELL (I10)."""
        self.config = replace(self.config, shell=words.words)
        return f"SHELL {history.plain_list(words.words)}"

    def set_user(self, text: Text, expand: Expander) -> str:
        """USER: stored as expanded (I06)."""
        user = _no_zero(expand(text.text), "user")
        self.config = replace(self.config, user=user)
        return f"USER {user}"

    def set_workdir(self, text: Text, expand: Expander) -> str:
        """WORKDIR: relative paths join the previous one, absolute ones stay as written (I05)."""
        path = _no_zero(expand(text.text), "working directory")
        if not path.startswith("/"):
            path = clean(posixpath.join(self.config.working_dir, path))
        self.config = replace(self.config, working_dir=path)
        self.has_workdir = True
        return f"WORKDIR {path}"

    def set_maintainer(self, text: Text) -> str:
        """MAINTAINER: never expanded (I03)."""
        self.config = replace(self.config, author=text.text)
        return f"MAINTAINER {text.text}"

    def set_stop_signal(self, text: Text, expand: Expander) -> str:
        """STOPSIGNAL: stored as expanded (I08)."""
        signal = expand(text.text)
        if not is_signal(signal):
            raise MistakeError(
                f"invalid signal: {signal[:60]!r}", hint="give a name such as SIGTERM or a number"
            )
        self.config = replace(self.config, stop_signal=signal)
        return f"STOPSIGNAL {signal}"

    def expose(self, words: Words, split: Callable[[str], list[str]]) -> str:
        """EXPOSE: sorted as written, and the only one split after expansion (I04, T29)."""
        ports = [
            port
            for word in sorted(words.words)
            for text in split(word)
            for port in parse_ports(text)
        ]
        self._budget.spend(sum(map(len, ports)))
        self.ports.update(dict.fromkeys(ports))
        return f"EXPOSE {history.plain_list(ports)}"

    def add_volumes(self, words: Words, expand: Expander) -> str:
        """VOLUME: recorded only; what later steps write there stays (I07)."""
        volumes = [_no_zero(expand(word), "volume") for word in words.words]
        if not all(volumes):
            raise MistakeError("volume path can not be empty")
        self.volumes.update(dict.fromkeys(volumes))
        return f"VOLUME {history.plain_list(volumes)}"

    def set_healthcheck(self, check: HealthcheckInstruction) -> str:
        """HEALTHCHECK: last wins (I09)."""
        healthcheck = _healthcheck(check)
        self.config = replace(self.config, healthcheck=healthcheck)
        return history.healthcheck_text(healthcheck)

    def finished(self, platform: Platform, labels: tuple[tuple[str, str], ...]) -> ImageConfig:
        """The config of the built image: --label last (O04), the target's platform (O05)."""
        working_dir = self.config.working_dir if self.has_workdir else ""
        if platform.os == _WINDOWS:
            working_dir = working_dir.replace("/", "\\")
        return replace(
            self.config,
            platform=replace(platform, os_version=self.config.platform.os_version),
            working_dir=working_dir,
            env=tuple(self.environment.persisted.items()),
            labels=tuple({**self.labels, **dict(labels)}.items()),
            exposed_ports=tuple(sorted(self.ports)),
            volumes=tuple(sorted(self.volumes)),
            on_build=tuple(self.triggers),
            diff_ids=(),
        )


def clean(path: str) -> str:
    """Clean a path as absolute: no `.`, `..`, doubled or trailing slashes (C20)."""
    return "/" + posixpath.normpath("/" + path).lstrip("/")


def _expanded(pairs: Pairs, expand: Expander) -> list[tuple[str, str]]:
    return [(expand(name), expand(value)) for name, value in pairs.pairs]


def _no_zero(text: str, what: str) -> str:
    if "\0" in text:
        raise MistakeError(f"{what} contains a zero byte")
    return text


def _healthcheck(check: HealthcheckInstruction) -> Healthcheck:
    if check.none or check.command is None:
        return Healthcheck(test=("NONE",))
    kind = "CMD-SHELL" if check.command.shell_form else "CMD"
    return Healthcheck(
        (kind, *check.command.words),
        check.interval,
        check.timeout,
        check.start_period,
        check.start_interval,
        check.retries,
    )
