"""Sets of videos packed for training: every frame a JPEG of its own, in tar files, with an index to find it by."""
