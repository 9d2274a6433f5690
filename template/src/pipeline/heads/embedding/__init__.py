"""Which of many identities an image shows, or none that is known: images lie by likeness, and the nearest ones tell."""

LOSSES = {"arcface": "pipeline.losses.embedding:ArcFace"}
