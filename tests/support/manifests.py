"""What the files in deploy/ say, as pods that can be started here.

Read are Kubernetes manifests and the jobs of GitLab and GitHub: who runs what, with which rights
and volumes. A field that means something and is not known here is an error, so that no manifest
is tried with less than it says.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from support.pods import Pod, Volume

from builder.sandbox.oci_config import CAPABILITIES

_POD_FIELDS = {
    "containers", "hostUsers", "restartPolicy", "automountServiceAccountToken", "securityContext",
    "volumes",
}  # fmt: skip
_CONTAINER_FIELDS = {"name", "image", "args", "securityContext", "env", "volumeMounts"}
_CONTEXT_FIELDS = {
    "runAsNonRoot", "runAsUser", "fsGroup", "seccompProfile", "appArmorProfile", "capabilities",
    "allowPrivilegeEscalation", "readOnlyRootFilesystem",
}  # fmt: skip
_JOB_FIELDS = {"runs-on", "container", "steps"}
_UNFILTERED = {"type": "Unconfined"}


@dataclass(frozen=True, slots=True)
class Image:
    """An unpacked image: its root directory and what its configuration says."""

    root: Path
    config: dict

    def pod(self, uid=None, **settings):
        """A pod of it, of its user unless told."""
        uid = int(self.config["User"]) if uid is None else uid
        return Pod(
            uid=uid,
            gid=uid if uid == int(self.config["User"]) else 0,
            root=str(self.root),
            env=dict(entry.split("=", 1) for entry in self.config["Env"]),
            **settings,
        )


@dataclass(frozen=True, slots=True)
class Started:
    """A pod with the command line it is started with."""

    pod: Pod
    argv: tuple[str, ...]
    cwd: str

    def run(self, *argv, **options):
        """Run it to its end, or another command in its place."""
        return self.pod.run(*(argv or self.argv), cwd=self.cwd, **options)

    def good(self, *argv, **options):
        """Run and require success; gives standard output."""
        return self.pod.good(*(argv or self.argv), cwd=self.cwd, **options)


def pod_spec(path):
    """The `spec` of the pod that a Pod or CronJob starts."""
    document = yaml.safe_load(Path(path).read_text())
    assert document["apiVersion"] == {"Pod": "v1", "CronJob": "batch/v1"}[document["kind"]]
    if document["kind"] == "CronJob":
        return document["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return document["spec"]


def kubernetes(spec, image, directory, given, secrets=()):
    """What a kubelet would start; volumes are made in `directory`, names replaced as `given`."""
    _known(spec, _POD_FIELDS)
    (container,) = spec["containers"]
    _known(container, _CONTAINER_FIELDS)
    context = spec.get("securityContext", {}) | container.get("securityContext", {})
    _known(context, _CONTEXT_FIELDS)
    user_namespace = not spec.get("hostUsers", True)
    group = context.get("fsGroup", 0)
    made = {}
    for volume in spec.get("volumes", ()):
        made[volume["name"]] = _volume(volume, Path(directory), group, dict(secrets))
    volumes = []
    for mount in container.get("volumeMounts", ()):
        options = ("ro",) if mount.get("readOnly") else ()
        volumes.append(Volume(made[mount["name"]], mount["mountPath"], options))
    pod = image.pod(
        context.get("runAsUser"),
        groups=(group,) if group else (),
        capabilities=_capabilities(context.get("capabilities", {})),
        no_new_privileges=not context.get("allowPrivilegeEscalation", True),
        filtered=context.get("seccompProfile", _UNFILTERED) != _UNFILTERED,
        user_namespace=user_namespace,
        read_only=context.get("readOnlyRootFilesystem", False),
        token=spec.get("automountServiceAccountToken", True),
        volumes=tuple(volumes),
    )
    if context.get("runAsNonRoot"):
        assert pod.uid != 0
    env = {entry["name"]: replaced(entry["value"], given) for entry in container.get("env", ())}
    words = [replaced(str(word), given) for word in container["args"]]
    argv = (*image.config["Entrypoint"], *words)
    return Started(replace(pod, env=pod.env | env), argv, image.config["WorkingDir"])


def gitlab(path, image, project, variables):
    """A job of GitLab's docker executor: `project` is the checkout, which the job owns nothing of."""
    (job,) = yaml.safe_load(Path(path).read_text()).values()
    _known(job, {"image", "variables", "cache", "script"})
    assert job["image"]["entrypoint"] == [""]
    where = "/builds/team/app"
    given = {"$CI_PROJECT_DIR": where}
    ours = {name: replaced(text, given) for name, text in job["variables"].items()}
    pod = _container(image, Volume(project, where))
    env = pod.env | variables | ours | {"CI_PROJECT_DIR": where}
    script = "\n".join(("set -e", *job["script"]))
    return Started(replace(pod, env=env), ("sh", "-c", script), where)


def github(path, image, project, given):
    """A job in a container of a GitHub runner; `given` replaces secrets and names."""
    document = yaml.safe_load(Path(path).read_text())
    (job,) = document["jobs"].values()
    _known(job, _JOB_FIELDS)
    assert job["container"]["options"] == "--user 0"
    first, *others = job["steps"]
    assert first["uses"].startswith("actions/checkout@")
    where = "/__w/app/app"
    pod = _container(image, Volume(project, where), uid=0)
    env = pod.env | {"HOME": "/github/home", "CI": "true", "GITHUB_ACTIONS": "true"}
    script = "\n".join(("set -e", *(replaced(step["run"], given) for step in others)))
    return Started(replace(pod, env=env), ("sh", "-c", script), where)


def _container(image, project, uid=None):
    """Docker's default container; it makes the volumes that the image names."""
    volumes = []
    for number, target in enumerate(image.config.get("Volumes", {})):
        place = Path(f"{project.source}-volume-{number}")
        place.mkdir()
        place.chmod((image.root / target.lstrip("/")).stat().st_mode)
        volumes.append(Volume(place, target))
    return image.pod(uid, filtered=True, token=False, volumes=(project, *volumes))


def violations(spec):
    """What the restricted Pod Security Standard has against a pod's spec."""
    (container,) = spec["containers"]
    context = spec.get("securityContext", {}) | container.get("securityContext", {})
    wanted = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    kinds = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
    found = [name for name, value in wanted.items() if context.get(name) != value]
    found += [v["name"] for v in spec.get("volumes", ()) if not kinds & v.keys()]
    return found + [name for name in spec if name.startswith("host") and name != "hostUsers"]


def replaced(text, given):
    """Text with each of the names in it replaced, the longest first."""
    for name in sorted(given, key=len, reverse=True):
        text = text.replace(name, given[name])
    return text


def _known(mapping, names):
    assert mapping.keys() <= names, mapping.keys() - names


def _capabilities(context):
    kept = [] if "ALL" in context.get("drop", ()) else list(CAPABILITIES)
    dropped = {f"CAP_{name}" for name in context.get("drop", ())}
    return tuple(
        [name for name in kept if name not in dropped]
        + [f"CAP_{name}" for name in context.get("add", ())]
    )


def _volume(volume, directory, group, secrets):
    """Make a volume as a kubelet does: for everybody, or for the group that it is told."""
    path = directory / volume["name"]
    path.mkdir(exist_ok=True)
    if "secret" in volume:
        _secret(volume["secret"], path, secrets)
        return path
    assert volume.keys() & {"emptyDir", "persistentVolumeClaim"}, volume
    os.chown(path, 0, group)
    path.chmod(0o2777 if "emptyDir" in volume else 0o2775)
    return path


def _secret(source, path, secrets):
    """The files of a secret, behind the links by which a kubelet exchanges all at once."""
    data = path / "..2026_01_01"
    data.mkdir(mode=0o755)
    for item in source["items"]:
        (data / item["path"]).write_text(secrets[source["secretName"]][item["key"]])
        (path / item["path"]).symlink_to(f"..data/{item['path']}")
    (path / "..data").symlink_to(data.name)
