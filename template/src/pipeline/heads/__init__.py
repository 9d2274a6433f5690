"""Heads: what one thing that is predicted needs, by kind."""
