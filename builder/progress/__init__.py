"""Events of a build and their renderers."""
