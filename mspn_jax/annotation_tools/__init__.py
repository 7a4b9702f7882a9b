"""Exports of annotation tools -> a data set in COCO's layout; and its split. No JAX."""
