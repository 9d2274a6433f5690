"""Scores of whole tables."""
