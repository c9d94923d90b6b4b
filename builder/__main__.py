"""`python -m builder`: the same as the `pybuild` command."""

from builder.start import main

raise SystemExit(main())
