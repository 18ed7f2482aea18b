"""The run folder: what lies in it, and the predictions recorded there."""
