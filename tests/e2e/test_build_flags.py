"""Flags of the build command, with real builds."""

from __future__ import annotations

STAGES = """\
FROM {base} AS Deps
RUN date > /deps
FROM {base} AS app
COPY a.txt /a
RUN date > /app
FROM {base}
RUN date > /last
COPY --from=deps /deps /
COPY --from=app /app /
"""


def test_no_cache_filter_runs_the_steps_of_its_stages_only(pybuild, busybox):
    """K30: RUN and COPY of the named stages run again; names are caseless, unknown ones no error."""
    context = pybuild.context("filter", STAGES.format(base=busybox), {"a.txt": "a\n"})
    pybuild.good(context)
    assert pybuild.good(context).ending("DONE") == []
    again = pybuild.good("--no-cache-filter", "APP,nosuch", context).ending("DONE")
    assert {"COPY a.txt /a", "RUN date > /app"} <= set(again)
    assert not {"RUN date > /deps", "RUN date > /last"} & set(again)
    both = pybuild.good("--no-cache-filter=deps", "--no-cache-filter=app", context).ending("DONE")
    assert {"RUN date > /deps", "RUN date > /app"} <= set(both)
    assert "RUN date > /last" not in both
