"""The image config and its history (image-spec config.md), both ways through JSON."""

from __future__ import annotations

from cache.errors import InvalidDocumentError
from cache.hints import Self
from cache.spec.digest import Digest
from cache.spec.fields import Fields
from cache.spec.oci import Platform, canonical_json, load_object
from cache.value import value

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@value
class History:
    """One history entry; `created` is RFC 3339 text, empty when unknown."""

    created_by: str = ""
    created: str = ""
    comment: str = ""
    author: str = ""
    empty_layer: bool = False


@value
class Healthcheck:
    """A health check; times in nanoseconds, 0 meaning inherited."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@value
class ImageConfig:
    """What docker calls the image: platform, run-time defaults, history and diff_ids.

    `env` and `labels` keep their order; `cmd` and `entrypoint` are None when not set.
    """

    platform: Platform = Platform()
    created: str = ""
    author: str = ""
    env: tuple[tuple[str, str], ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    args_escaped: bool = False
    user: str = ""
    working_dir: str = ""
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    stop_signal: str = ""
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()
    history: tuple[History, ...] = ()
    diff_ids: tuple[Digest, ...] = ()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Decode a config blob.

        Raises:
            InvalidDocumentError: a field has a type or value the spec does not allow.
        """
        top = Fields(load_object(data, "image config"), "image config")
        run = top.child("config") or Fields({}, "image config.config")
        rootfs = top.child("rootfs") or Fields({}, "image config.rootfs")
        if rootfs.text("type", "layers") != "layers":
            msg = "image config: rootfs.type is not layers"
            raise InvalidDocumentError(msg)
        return cls(
            platform=Platform(
                top.text("os", "linux"),
                top.text("architecture", "amd64"),
                top.text("variant"),
                top.text("os.version"),
            ),
            created=top.text("created"),
            author=top.text("author"),
            env=tuple(_pair(item) for item in run.texts("Env") or ()),
            entrypoint=run.texts("Entrypoint"),
            cmd=run.texts("Cmd"),
            args_escaped=run.flag("ArgsEscaped"),
            user=run.text("User"),
            working_dir=run.text("WorkingDir"),
            exposed_ports=run.names("ExposedPorts"),
            volumes=run.names("Volumes"),
            labels=tuple(run.text_map("Labels").items()),
            stop_signal=run.text("StopSignal"),
            healthcheck=_healthcheck(run.child("Healthcheck")),
            on_build=run.texts("OnBuild") or (),
            shell=run.texts("Shell") or (),
            history=tuple(_history(entry) for entry in top.children("history")),
            diff_ids=tuple(Digest.parse(text) for text in rootfs.texts("diff_ids") or ()),
        )

    def to_json(self) -> bytes:
        """Encode canonically; fields that are empty are left out, as docker does."""
        document = {
            "architecture": self.platform.architecture,
            "os": self.platform.os,
            "variant": self.platform.variant,
            "os.version": self.platform.os_version,
            "created": self.created,
            "author": self.author,
        }
        return canonical_json(
            {
                **{key: value for key, value in document.items() if value},
                "config": _run_json(self),
                "history": [_history_json(entry) for entry in self.history],
                "rootfs": {"type": "layers", "diff_ids": [str(d) for d in self.diff_ids]},
            }
        )


def _pair(item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals or not name or "\0" in item:
        msg = f"image config: Env entry {item[:60]!r} is not NAME=value"
        raise InvalidDocumentError(msg)
    return name, value


def _history(entry: Fields) -> History:
    return History(
        created_by=entry.text("created_by"),
        created=entry.text("created"),
        comment=entry.text("comment"),
        author=entry.text("author"),
        empty_layer=entry.flag("empty_layer"),
    )


def _history_json(entry: History) -> dict[str, object]:
    fields = {
        "created": entry.created,
        "created_by": entry.created_by,
        "author": entry.author,
        "comment": entry.comment,
        "empty_layer": entry.empty_layer,
    }
    return {key: value for key, value in fields.items() if value}


def _healthcheck(entry: Fields | None) -> Healthcheck | None:
    if entry is None:
        return None
    return Healthcheck(
        test=entry.texts("Test") or (),
        interval=entry.integer("Interval"),
        timeout=entry.integer("Timeout"),
        start_period=entry.integer("StartPeriod"),
        start_interval=entry.integer("StartInterval"),
        retries=entry.integer("Retries"),
    )


def _healthcheck_json(check: Healthcheck) -> dict[str, object]:
    fields: dict[str, object] = {
        "Test": list(check.test),
        "Interval": check.interval,
        "Timeout": check.timeout,
        "StartPeriod": check.start_period,
        "StartInterval": check.start_interval,
        "Retries": check.retries,
    }
    return {key: value for key, value in fields.items() if value}


def _run_json(config: ImageConfig) -> dict[str, object]:
    fields: dict[str, object] = {
        "User": config.user,
        "ExposedPorts": {port: {} for port in config.exposed_ports},
        "Env": [f"{name}={value}" for name, value in config.env],
        "Entrypoint": list(config.entrypoint or ()),
        "Cmd": list(config.cmd or ()),
        "Volumes": {volume: {} for volume in config.volumes},
        "WorkingDir": config.working_dir,
        "Labels": dict(config.labels),
        "StopSignal": config.stop_signal,
        "ArgsEscaped": config.args_escaped,
        "OnBuild": list(config.on_build),
        "Shell": list(config.shell),
    }
    if config.healthcheck is not None:
        fields["Healthcheck"] = _healthcheck_json(config.healthcheck)
    return {key: value for key, value in fields.items() if value}
