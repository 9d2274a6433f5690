"""The demo of this project's task."""

from demo_data.image_level import write_demo as write_demo
