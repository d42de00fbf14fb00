"""The pictures of the demo data set: a figure in a place, moving and holding a thing, seen by a camera."""
