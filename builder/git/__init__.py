"""Git repositories as sources: resolved, fetched and read with the git program."""
