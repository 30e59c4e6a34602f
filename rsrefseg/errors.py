"""What can go wrong in the model's room, and whose move it is.

RSRefSegError
├── BadRequest          the asker's: another image, another expression, another folder
│   ├── BadImage
│   ├── BadPointing
│   └── BadDataset
├── Unavailable         nobody's: wait, and try again
│   └── DownloadFailed
└── Broken              ours: a checkpoint that does not fit its own description
    ├── UnknownPreset
    ├── BadCheckpoint
    ├── MissingWeights
    └── CannotCompile
"""

from __future__ import annotations


class RSRefSegError(Exception):
    """Anything this package refuses to do."""


class BadRequest(RSRefSegError):
    """The asker can mend it: the sentence says how."""


class BadImage(BadRequest):
    """The array or file is not an image that can be read."""


class BadPointing(BadRequest):
    """Points or a box that are not in the image."""


class BadDataset(BadRequest):
    """The folder is not laid out as its benchmark is, a row of it cannot be used, or there are too few."""


class Unavailable(RSRefSegError):
    """What is needed cannot be had just now; trying again later may help."""


class DownloadFailed(Unavailable):
    """A file did not come, or came damaged; what did come is kept for the next try."""


class Broken(RSRefSegError):
    """The installation or the checkpoint has to be mended."""


class UnknownPreset(Broken):
    """No preset has that name, or its weights are not here."""


class BadCheckpoint(Broken):
    """The file or folder is not a checkpoint, or does not fit the preset it names."""


class MissingWeights(Broken):
    """Files that a model is built on are not on this machine: the sentence says which, and how to get them."""


class CannotCompile(Broken):
    """This machine has no compiler for what torch.compile writes."""
