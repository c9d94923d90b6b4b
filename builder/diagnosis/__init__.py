"""What this host allows a RUN, found by asking the kernel, and what would change the answer."""
