"""Drawn overhead scenes in which the mask of every object is known exactly."""

from rsrefseg.scenes.scene import Scene, draw_scene

__all__ = ["Scene", "draw_scene"]
