"""Projects in C, Python and JavaScript built where steps have few rights: the layers of tier 1 (F13)."""

from __future__ import annotations

import os
import shutil

import pytest
from support import bases
from support.environments import ENVIRONMENTS
from support.pybuild_cli import REPOSITORY
from support.step_layers import members

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can take rights away"),
    pytest.mark.xdist_group("projects"),
    pytest.mark.timeout(900),
]

PROJECTS = REPOSITORY / "testdata" / "projects"
# What Python compiles tells by its source's digest, not by its time; npm and pip keep no caches.
TEXT = """\
FROM {base}
ARG PIP_INDEX_URL PIP_TRUSTED_HOST NPM_CONFIG_REGISTRY
ENV SOURCE_DATE_EPOCH=1 PYTHONHASHSEED=0
WORKDIR /c
COPY c-scratch ./
RUN gcc -O2 -Wall -Wextra -Werror -c count.c && gcc -O2 -static -s -o wordcount main.c count.o \\
 && ./wordcount an image with one file > said
WORKDIR /web
RUN python3 -m venv env
COPY python-web/requirements.txt ./
RUN --mount=type=cache,target=/root/.cache/pip env/bin/pip install -r requirements.txt
COPY python-web/notes notes
RUN useradd --system --no-create-home web && chown -R web: notes
USER web
RUN env/bin/python -c 'import notes.app' && id -un > /tmp/who
USER root
WORKDIR /app
COPY node-app/package.json node-app/package-lock.json ./
RUN --mount=type=cache,target=/root/.npm npm ci --no-audit --no-fund
COPY node-app/src src
COPY node-app/pages pages
RUN --mount=type=cache,target=/root/.npm npm run build && npm prune --omit=dev --no-audit --no-fund
"""


@pytest.fixture(scope="module")
def context(workspace, registry, root_pybuild, node_base):
    """The projects, on one base that has what all of them need."""
    base = registry.name("tools:1")
    tools = ("python3-venv", "gcc", "libc6-dev")
    made = bases.install_context(workspace / "tools", node_base, *tools)
    root_pybuild.good("-t", base, "--push", made, timeout=600)
    context = workspace / "projects-context"
    shutil.copytree(PROJECTS, context)
    (context / "Dockerfile").write_text(TEXT.format(base=base))
    return context


@pytest.fixture(scope="module")
def expected(root_pybuild, workspace, context):
    """The layers with namespaces."""
    output = workspace / "projects-expected"
    flags = ("--sandbox", "userns", "-o", f"type=oci,tar=false,dest={output}")
    root_pybuild.good(*flags, *bases.index_arguments(), context, timeout=600)
    return members(output)


@pytest.mark.parametrize("name", ["2a", "3", "4"])
def test_projects_have_the_layers_of_namespaces(name, host, context, expected):
    """Gcc, pip in a venv, npm ci and its scripts: every entry but times (F13, G)."""
    here = host(ENVIRONMENTS[name])
    output = f"type=oci,tar=false,dest={here.seen / 'out'}"
    here.good("-o", output, *bases.index_arguments(), here.add(context), timeout=600)
    layers = members(here.home / "out")
    assert len(layers) == len(expected)
    for layer, wanted in zip(layers, expected, strict=True):
        differ = {p for p in layer.keys() | wanted.keys() if layer.get(p) != wanted.get(p)}
        assert differ == set()
