"""Making pictures of people whose pose is known exactly.

`body` and `wardrobe` make a person, `motion` a posture, `scene` the camera and the light, `things` what is in the way;
`render` draws, `lens` adds what cameras add. `pools` deals clips and panoramas to the splits, `record` makes one
picture with all that is known about it, `shards` the files.
"""

from posebook.synthesis.record import Recipe, render_anew, render_record
from posebook.synthesis.shards import synthesize

__all__ = ["Recipe", "render_anew", "render_record", "synthesize"]
