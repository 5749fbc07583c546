"""Videos: listed, decoded, cut into clips and changed at random."""
