"""One file per pass; pipelines are explicit lists in the targets."""
