"""Published sets: lists, names of classes and a report from the annotation files that they are distributed with."""
