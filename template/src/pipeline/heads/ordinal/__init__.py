"""Grades in order, of which one is true. All but what the network learns is as of classes without an order."""

LOSSES = {"corn": "pipeline.losses.multiclass:Corn"}
