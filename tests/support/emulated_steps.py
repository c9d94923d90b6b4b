"""Builds whose steps tell in /log what they saw, and small programs for them."""

from __future__ import annotations

import shutil
import subprocess

from support.step_layers import members


def outcome(pybuild, context, sandbox, *flags):
    """The layers of a build, and what it wrote to /log last."""
    output = pybuild.home / sandbox
    pybuild.good(
        *("--sandbox", sandbox, "--no-cache", "--progress", "plain", *flags),
        *("-o", f"type=oci,tar=false,dest={output}", context),
    )
    layers = members(output)
    log = next(layer["log"][8] for layer in reversed(layers) if "log" in layer)
    return layers, log.decode().splitlines()


def compiled(directory, name, text, *flags):
    """A static program of a few lines of C."""
    compiler = shutil.which("gcc")
    assert compiler, "gcc is missing"
    source = directory / f"{name}.c"
    source.write_text(text)
    target = directory / name
    subprocess.run([compiler, "-static", "-O1", *flags, "-o", target, source], check=True)
    return target.read_bytes()
