"""Making pictures of people whose pose is known exactly: body, wardrobe, motion, scene, render."""

from posebook.synthesis.generate import render_record, synthesize

__all__ = ["render_record", "synthesize"]
