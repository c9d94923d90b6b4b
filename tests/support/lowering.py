"""Lower a text in one call, and show what came of it as stable text for goldens."""

from __future__ import annotations

import json

from support.fake_resolver import FakeResolver

from cache.spec.oci import Platform
from frontend.dockerfile.instructions import parse_dockerfile
from frontend.dockerfile.lower import Lowered, LowerRequest, lower
from frontend.graph import Network
from frontend.source import SourceFile


def lowered(text: str, *, resolver: FakeResolver | None = None, **request) -> Lowered:
    """Parse and lower with the fake images."""
    source = SourceFile("Dockerfile", text)
    return lower(
        source, parse_dockerfile(source), LowerRequest(**request), resolver or FakeResolver()
    )


def request_from(fields: dict) -> dict:
    """Turn the fields of a request.json into arguments of LowerRequest."""
    result = dict(fields)
    for name in ("build_args", "labels", "contexts"):
        if name in result:
            result[name] = tuple(result[name].items())
    if "platform" in result:
        result["platform"] = Platform.parse(result["platform"])
    if "network" in result:
        result["network"] = Network(result["network"])
    return result


def shown(result: Lowered) -> str:
    """Render a lowering: graph, names with places, config, history, warnings, stages."""
    graph = result.graph
    names = [
        f"v{i} {v.span.start}-{v.span.end} {v.stage or '-'} {v.name or '-'}"
        for i, v in enumerate(graph.vertices)
    ]
    proxies = [
        f"v{i} proxies {v.op.proxies}"
        for i, v in enumerate(graph.vertices)
        if getattr(v.op, "proxies", ())
    ]
    config = json.loads(result.config.to_json())
    history = [
        f"{'-' if h.ref is None else f'v{h.ref}'} {json.dumps(h.created_by, ensure_ascii=False)}"
        for h in result.history
    ]
    warnings = [f"{w.span.start}-{w.span.end} {w.rule}: {w.message}" for w in result.warnings]
    stages = [f"{s.index} {s.name} from {s.base} v{s.ref}" for s in result.stages]
    parts = {
        "graph": graph.dump().splitlines(),
        "names": [*names, *proxies],
        "result": [f"v{result.result}"],
        "config": json.dumps(config, indent=1, ensure_ascii=False).splitlines(),
        "history": history,
        "warnings": warnings,
        "stages": stages,
    }
    return "\n".join(f"== {title}\n" + "".join(f"{x}\n" for x in p) for title, p in parts.items())
