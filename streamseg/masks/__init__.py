"""Masks: filters between the model and the effects, and masks as text.

``smoothing`` (over time), ``refinement`` (along the picture's edges), ``rle`` (COCO's run lengths).
Import what you need from the module itself.
"""
