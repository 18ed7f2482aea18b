"""The forms in which teachers of the DINOv2 family are published, an adapter each: no torch until one is loaded."""
