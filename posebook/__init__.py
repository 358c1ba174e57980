"""posebook: human pose estimation from single images, small enough to read.

The package behind the book of the same name, which re-creates and tests the papers of Li, Liu and Chan (2014).
Import the module that you need, for instance `from posebook import metrics`; importing `posebook` alone loads
no module of it, so that it costs nothing.

Conventions that hold everywhere: pixels with x to the right and y down, the centre of the first pixel at (0, 0);
3D in camera coordinates, millimetres, x right, y down, z forward; left and right are the person's.
"""

__version__ = "0.1.0"
