"""Trees that files are copied from: the local context and stacks of layers."""
