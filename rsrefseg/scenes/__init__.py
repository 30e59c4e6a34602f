"""Drawn overhead scenes in which the mask of every object is known exactly."""

from rsrefseg.scenes.scene import Camera, Scene, draw_scene

__all__ = ["Camera", "Scene", "draw_scene"]
