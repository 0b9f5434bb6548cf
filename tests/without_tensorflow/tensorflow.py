"""Hides TensorFlow from a process that has this folder on its path.

On other backends Keras imports it, if it can, with the first config that it
serializes, which takes as long as the rest of the start.
"""

raise ImportError("TensorFlow is hidden from this process.")
