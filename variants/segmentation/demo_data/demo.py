"""The demo of this project's task."""

from demo_data.masks import write_demo as write_demo
