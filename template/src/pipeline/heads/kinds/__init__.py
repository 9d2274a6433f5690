"""A module each: a kind of head, by the name that `Head.kind` says."""
